"""`mads-ray config`: the configuration, its schema, and the page of all settings."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from mads_ray.cli import app
from mads_ray.config import RunConfig, load_config

REPO = Path(__file__).parents[2]
JOBS = sorted(set((REPO / "jobs").glob("*.yaml")) - {REPO / "jobs/finetune_grid.yaml"})


def printed(*words):
    result = CliRunner().invoke(app, ["config", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def check():
    schema = json.loads(printed("--schema"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("file", JOBS, ids=lambda p: p.stem)
def test_the_examples_fit_the_schema(check, file):
    check.validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def test_all_defaults_fit_the_schema(check):
    check.validate(RunConfig(output="o").model_dump(mode="json"))
    check.validate({})


@pytest.mark.parametrize(
    "text",
    [
        "input: a.jsonl\ncorpus: {split: 'train,test', fields: {prompt: q, response: a}}",
        "input: [a, b]\ncorpus: {split: [train, test]}\nclustering: {levels: [4, 16]}",
        "selection: {fraction: 1, objective: 'cap:3', compare: [random]}\nray: {hang_s: 5}",
    ],
)
def test_what_loads_fits_the_schema(check, text):
    load_config(None, yaml.safe_load(text) | {"output": "o"})
    check.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "outpt: x",
        "capture: {modell: m}",
        "capture: {engine: sglang}",
        "corpus: {fields: {promt: q}}",
        "selection: {fraction: 1.5}",
        "selection: {size: 0}",
        "selection: {objective: cube}",
        "selection: {compare: [randon]}",
        "seed: -1",
        "ray: {workers: many}",
    ],
)
def test_what_does_not_load_does_not_fit(check, text):
    with pytest.raises(ValueError, match="configuration"):
        load_config(None, yaml.safe_load(text) | {"output": "o"})
    assert not check.is_valid(yaml.safe_load(text))


def test_the_schema_tells_what_an_editor_shows():
    group = json.loads(printed("--schema"))["properties"]["capture"]
    assert not group["additionalProperties"]
    assert group["properties"]["engine"]["enum"] == ["transformers", "vllm"]
    assert group["properties"]["engine"]["default"] == "transformers"
    assert group["properties"]["engine"]["description"].startswith("What runs the model.")


def test_what_is_printed_repeats_the_run(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("output: é\nselection: {size: 5}\nseed: 4\n", encoding="utf-8")
    text = printed("--config", file, "--fraction", 0.1, "--set", "ray.hang_s=5")
    assert "output: é\n" in text
    again = tmp_path / "again.yaml"
    again.write_text(text, encoding="utf-8")
    wanted = load_config(str(file), {"selection.fraction": 0.1, "ray.hang_s": 5})
    assert load_config(str(again), {}) == wanted


def test_without_an_output_none_is_printed():
    whole = yaml.safe_load(printed("--seed", 3))
    assert RunConfig(**whole, output="o") == RunConfig(output="o", seed=3)
    assert "output" not in whole


def test_bad_flags_are_told():
    result = CliRunner().invoke(app, ["config", "--fraction", "3"])
    assert result.exit_code == 2
    assert "selection.fraction" in result.output


def test_the_page_of_settings_is_the_one_that_is_made():
    """After a change of a field: mads-ray config --reference > docs/settings.md."""
    page = (REPO / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == printed("--reference")
