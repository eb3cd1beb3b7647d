"""Flags are made from the settings: each reaches its own, and tells what it takes."""

import os
import re
from typing import Literal, get_args, get_origin

import pytest
import typer
from typer.testing import CliRunner

from mads_ray.cli import app
from mads_ray.cli.flags import FLAGS, Given, help_of, with_settings
from mads_ray.config import RunConfig, former_names
from mads_ray.config.settings import settings

ALL = ("input", "output", "seed", "output_format", "corpus", "capture", "selection", "ray")
WORDS = {"corpus.fields": ("prompt=q", "response=a"), "selection.objective": ("cap:3",)}
WORDS |= {"capture.hook_module": ("layers.*.down",), "selection.method": ("kmeans",)}


def loaded(*words, command=with_settings(*ALL)):
    """The configuration that a command with these flags gets."""
    found = []
    small = typer.Typer()

    @small.command()
    @command
    def show(given: Given, more: int = 1):
        found.append((given.load(), more))

    result = CliRunner().invoke(small, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    return found[0]


def words_for(name):
    """Values that a shell could give, and what the field then holds."""
    setting = settings()[name]
    if name in WORDS:
        words = WORDS[name]
    elif setting.values:
        words = setting.values[-1:]
    else:
        words = {int: ("3",), float: ("0.75",), bool: (), str: ("/a/b",)}[setting.kind]
    if setting.kind is bool:
        return words, True
    values = tuple(setting.kind(w) for w in words)
    if setting.shape == "map":
        return words, dict(w.split("=") for w in words)
    return words, values if setting.shape == "list" else values[0]


NOW = {flags: name for flags, name in FLAGS.items() if name not in former_names()}


@pytest.mark.parametrize(
    ("flag", "name"), [(flag, name) for flags, name in NOW.items() for flag in flags.split()]
)
def test_a_flag_reaches_its_field(flag, name):
    words, value = words_for(name)
    given = [x for word in words for x in (flag, word)] or [flag]
    config, _ = loaded(*given, *([] if name == "output" else ["--output", "/o"]))
    group, _, leaf = name.rpartition(".")
    assert getattr(getattr(config, group) if group else config, leaf) == value
    changed = set()
    for group, found in config.model_dump(exclude_defaults=True).items():
        changed |= {f"{group}.{n}" for n in found} if isinstance(found, dict) else {group}
    assert changed == {name, "output"}


def test_what_is_not_given_is_a_default():
    assert loaded("-o", "/o") == (RunConfig(output="/o"), 1)
    config, more = loaded("-o", "/o", "--seed", 0, "--more", 2, "--set", "ray.hang_s=5")
    assert (config.seed, config.ray.hang_s, more) == (0, 5.0, 2)


def test_a_former_flag_is_hidden_and_warns(caplog):
    config, _ = loaded("-o", "/o", "--tokens", 70)
    assert config == loaded("-o", "/o", "--token-budget", 70)[0]
    told = "command line: selection.tokens is now called selection.token_budget"
    assert [r.getMessage() for r in caplog.records] == [told]
    assert " --tokens " not in shown("run")


def literals():
    for group, field in RunConfig.model_fields.items():
        fields = getattr(field.annotation, "model_fields", None)
        for name, one in {group: field}.items() if fields is None else fields.items():
            dotted = name if fields is None else f"{group}.{name}"
            for part in (one.annotation, *get_args(one.annotation)):
                if get_origin(part) is Literal:
                    yield dotted, get_args(part)


def shown(command):
    env = {"COLUMNS": "300", "TERM": "dumb"}
    return re.sub(r"\s+", " ", CliRunner().invoke(app, [command, "--help"], env=env).output)


def test_help_shows_the_values_of_every_choice():
    found = dict(literals())
    assert {"capture.engine", "output_format", "capture.dtype"} <= found.keys()
    text = shown("run")
    for name in found.keys() & set(NOW.values()):
        assert set(found[name]) <= set(settings()[name].values)
        assert help_of(settings()[name]) in text
        for value in found[name]:
            assert value in help_of(settings()[name])


def test_help_keeps_an_order():
    text = shown("run")
    flags = [flag.split()[0] for flag in NOW]
    places = [text.index(f" {flag} ") for flag in flags]
    assert places == sorted(places)
    assert flags.index("--size") == flags.index("--fraction") + 1
    headings = [
        text.index(f"─ {h} ─") for h in ("Options", "Corpus", "Capture", "Selection", "Ray")
    ]
    assert headings == sorted(headings)


@pytest.mark.parametrize(
    ("command", "has", "lacks"),
    [
        ("run", ["--sample", "--overwrite", "--set", "--workers"], ["--states"]),
        ("capture", ["--sample", "--seed", "--workers"], ["--fraction", "--output-format"]),
        (
            "select",
            ["--states", "--fraction", "--ray-address"],
            ["--input", "--model", "--workers"],
        ),
        ("inspect", ["--rows", "--model", "--field"], ["--output", "--hook-module"]),
        ("doctor", ["--model", "--output", "--address"], ["--config"]),
    ],
)
def test_a_command_has_the_flags_that_concern_it(command, has, lacks):
    text = shown(command)
    assert [f for f in has if f" {f} " not in text] == []
    assert [f for f in lacks if f" {f} " in text] == []


def test_paths_are_whole_and_uris_as_they_are():
    home = os.path.expanduser("~")
    config, _ = loaded("-o", "o", "-i", "a/../b.jsonl", "-i", "s3://x/y", "-i", "~/z", "--sample")
    assert config.input[:3] == (os.path.abspath("b.jsonl"), "s3://x/y", f"{home}/z")
    assert config.input[3].endswith("mads_ray/sample_corpus")
    assert config.output == "o"
    config, _ = loaded("-o", "o", "--target", "t.jsonl", "--base-core-set", "~/base")
    assert config.selection.target == (os.path.abspath("t.jsonl"),)
    assert config.selection.base_core_set == f"{home}/base"
    config, _ = loaded("-o", "o", "--calibration-from", "../c")
    assert config.capture.calibration_from == os.path.abspath("../c")
