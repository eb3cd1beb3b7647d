"""A configuration is what the user meant, or an error that names the field."""

import json

import pytest
import yaml
from pydantic import ValidationError

from mads_ray import capture
from mads_ray.config import CaptureConfig, RunConfig, former_names, load_config
from mads_ray.config.settings import settings
from mads_ray.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    def load_text(text, overrides=None, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_config(str(path), overrides or {})

    return load_text


def test_defaults():
    config = load_config(None, {"output": "out"})
    assert config == RunConfig(output="out")
    assert (config.input, config.seed, config.output_format) == ((), 0, "jsonl")
    assert config.selection.effective_fraction == 0.15
    assert config.capture.model == "smollm2-135m"


def test_file_is_read(load):
    config = load(
        "input: [a.jsonl, é/*.parquet]\noutput: out\nseed: 3\n"
        "corpus: {fields: {prompt: q.text, response: a}, label_field: kind}\n"
        "clustering: {levels: [4, 16]}\nselection: {token_budget: 1000, objective: 'cap:3'}\n"
    )
    assert config.input == ("a.jsonl", "é/*.parquet")
    assert config.corpus.fields == {"prompt": "q.text", "response": "a"}
    assert (config.corpus.label_field, config.clustering.levels) == ("kind", (4, 16))
    assert (config.selection.token_budget, config.selection.objective) == (1000, "cap:3")
    assert config.selection.effective_fraction is None


def test_one_input_may_be_plain_text(load):
    assert load("input: a.jsonl\noutput: out\n").input == ("a.jsonl",)


def test_config_is_frozen():
    config = RunConfig(output="out")
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("outpt: x\n", "outpt: there is no such setting"),
        ("capture: {modell: m}\n", r"capture\.modell: there is no such setting"),
        ("selection: {fraktion: 0.1}\n", r"selection\.fraktion: there is no such setting"),
        ("corpus: {fields: {promt: q}}\n", r"corpus\.fields\.promt"),
        ("capture: {dtype: bf16}\n", r"capture\.dtype: Input should be 'auto'"),
        ("capture: {neurons_per_layer: 0}\n", r"capture\.neurons_per_layer: .* 1"),
        ("clustering: {levels: [4, 0]}\n", r"clustering\.levels\.1: "),
        ("selection: {fraction: 1.5}\n", r"selection\.fraction: "),
        ("selection: {objective: cube}\n", r"selection\.objective: "),
        ("selection: {objective: 'cap:0'}\n", r"selection\.objective: "),
        ("seed: -1\n", "seed: "),
        ("selection: 3\n", "selection: Input should be a valid dictionary"),
        ("selection: {tree_share: .inf}\n", r"selection\.tree_share: Input should be a finite"),
        ("selection: {quality_weight: .nan}\n", r"selection\.quality_weight: "),
        ("selection: {quality_weight: 1.0e+300}\n", r"selection\.quality_weight: "),
        ("selection: {random_draws: 65}\n", r"selection\.random_draws: .* 64"),
        ("selection: {tolerance: -.inf}\n", r"selection\.tolerance: "),
        ("ray: {hang_s: .inf}\n", r"ray\.hang_s: "),
        ("ray: {gpus_per_worker: .nan}\n", r"ray\.gpus_per_worker: "),
        ("selection: {size: true}\n", r"selection\.size: Value error, must not be true or false"),
        ("selection: {fraction: yes}\n", r"selection\.fraction: .* true or false"),
        ("clustering: {levels: [true]}\n", r"clustering\.levels: .* true or false"),
        (f"selection: {{size: 1{'0' * 30}}}\n", r"selection\.size: .* too large"),
        (f"selection: {{objective: 'cap:1{'0' * 20}'}}\n", r"selection\.objective: "),
        ("ray: {scratch: 1}\n", r"ray\.scratch: there is no such setting"),
        ('selection: {scratch: "a\\0b"}\n', r"selection\.scratch: .* NUL"),
        ('input: ["a\\0b", "c"]\n', "input: .* NUL"),
        ('capture: {model: "a\\0b"}\n', r"capture\.model: .* NUL"),
    ],
)
def test_bad_field_is_named_with_its_file(load, tmp_path, text, where):
    with pytest.raises(ConfigError, match=where) as e:
        load("output: out\n" + text)
    assert str(e.value).startswith(f"bad configuration ({tmp_path / 'run.yaml'}):\n  ")


def test_every_bad_field_is_named(load):
    with pytest.raises(ConfigError) as e:
        load("seed: x\ncapture: {modell: m}\n")
    assert [line.split(":")[0] for line in str(e.value).splitlines()[1:]] == [
        "  output",
        "  seed",
        "  capture.modell",
    ]


def test_bad_flag_names_the_command_line():
    with pytest.raises(
        ConfigError, match=r"^bad configuration \(command line\):\n  capture\.dtype"
    ):
        load_config(None, {"output": "out", "capture.dtype": "bf16"})


@pytest.mark.parametrize(
    "two", [("fraction", "size"), ("fraction", "token_budget"), ("size", "token_budget")]
)
def test_two_budgets_are_refused(load, two):
    values = {"fraction": 0.1, "size": 10, "token_budget": 100}
    chosen = json.dumps({n: values[n] for n in two})
    with pytest.raises(ConfigError, match=f"selection: .*give one budget, not {' and '.join(two)}"):
        load(f"output: out\nselection: {chosen}\n")
    with pytest.raises(ConfigError, match="give one budget"):
        load_config(None, {"output": "out", **{f"selection.{n}": values[n] for n in two}})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"capture.tensor_parallel": 2}, "tensor_parallel needs the engine vllm"),
        ({"capture.engine": "vllm", "capture.compile": True}, "compile is for the engine transf"),
        (
            {"capture.engine": "vllm", "ray.gpus_per_worker": 0.5},
            "below 1 needs the engine transformers",
        ),
        ({"capture.engine": "sglang"}, "capture.engine: Input should be 'transformers' or 'vllm'"),
    ],
)
def test_settings_that_the_engine_cannot_follow_are_refused(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        load_config(None, {"output": "x", **settings})
    fine = load_config(None, {"output": "x", "capture.engine": "vllm"})
    assert fine.capture.tensor_parallel == 1


def test_overrides_beat_the_file(load):
    text = "output: out\nseed: 3\ncapture: {model: a, max_tokens: 100}\n"
    config = load(text, {"seed": 4, "capture.model": "b", "ray.workers": 2})
    assert (config.seed, config.capture.model, config.ray.workers) == (4, "b", 2)
    assert (config.output, config.capture.max_tokens) == ("out", 100)


@pytest.mark.parametrize("old", ["fraction: 0.1", "size: 10", "token_budget: 100"])
@pytest.mark.parametrize(("name", "value"), [("fraction", 0.5), ("size", 7), ("token_budget", 9)])
def test_budget_flag_replaces_the_budget_of_the_file(load, old, name, value):
    text = f"output: out\nselection: {{{old}, max_rounds: 4}}\n"
    selection = load(text, {f"selection.{name}": value}).selection
    budget = {n: getattr(selection, n) for n in ("fraction", "size", "token_budget")}
    assert budget == {"fraction": None, "size": None, "token_budget": None, name: value}
    assert selection.max_rounds == 4


def test_override_below_a_plain_value_is_refused(load):
    with pytest.raises(ConfigError, match=r"selection\.size: selection is not a group"):
        load("output: out\nselection: 3\n", {"selection.size": 3})


def test_run_json_repeats_a_run(load):
    config = load_config(
        None, {"output": "out", "input": ["a"], "selection.size": 5, "clustering.levels": [4, 8]}
    )
    stored = {"version": "0.1.0", "config": config.model_dump(mode="json"), "counts": {"read": 3}}
    text = json.dumps(stored, indent=1)
    assert load(text, name="run.json") == config
    again = load(text, {"output": "other", "selection.token_budget": 50}, name="run.json")
    assert (again.output, again.selection.size, again.selection.token_budget) == ("other", None, 50)
    assert again.clustering.levels == (4, 8)


OLD = {
    "capture": {"tokens": "last", "token_budget": 64},
    "selection": {"tokens": 900, "pool_rows": 9, "rounds": 3, "stall": 0.5},
}
NEW = {
    "capture": {"token_scope": "last", "batch_tokens": 64},
    "selection": {"token_budget": 900, "buffer_rows": 9, "max_rounds": 3, "tolerance": 0.5},
}


def messages(caplog):
    return [r.getMessage() for r in caplog.records]


def test_former_names_load_with_one_warning(load, tmp_path, caplog):
    wanted = RunConfig(output="out", **NEW)
    assert load(yaml.safe_dump({"output": "out"} | OLD)) == wanted
    (told,) = messages(caplog)
    assert told.startswith(f"{tmp_path / 'run.yaml'}: capture.tokens is now called capture.token_")
    for old, new in former_names().items():
        assert f"{old} is now called {new}" in told
    caplog.clear()
    assert load(yaml.safe_dump({"output": "out"} | NEW)) == wanted
    assert RunConfig.model_validate({"output": "out"} | OLD) == wanted
    assert messages(caplog) == []


def test_former_names_of_a_stored_run_load(load, caplog):
    """With null for what was not given, which is nothing to warn of."""
    old = {"config": {"output": "out"} | OLD, "counts": {}}
    old["config"]["selection"] = OLD["selection"] | {"tokens": None, "fraction": 0.1}
    again = load(json.dumps(old), {"selection.token_budget": 50}, name="run.json")
    assert (again.selection.fraction, again.selection.token_budget) == (None, 50)
    assert again.selection.max_rounds == 3
    (told,) = messages(caplog)
    assert "selection.tokens" not in told


def test_former_names_in_flags_replace_the_file(load, caplog):
    text = "output: out\nselection: {fraction: 0.1, rounds: 4}\n"
    selection = load(text, {"selection.tokens": 9, "selection.max_rounds": 5}).selection
    assert (selection.fraction, selection.token_budget, selection.max_rounds) == (None, 9, 5)
    assert len(messages(caplog)) == 1


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("selection: {tokens: 5, token_budget: 6}", {}),
        ("selection: {rounds: 5, max_rounds: 6}", {"selection.size": 3}),
        ("", {"selection.tokens": 5, "selection.token_budget": 6}),
    ],
)
def test_a_setting_by_both_names_is_refused(load, text, overrides):
    with pytest.raises(ConfigError, match=r"is the former name of \S+: give one of them"):
        load(f"output: out\n{text}\n", overrides)


@pytest.mark.parametrize("text", ["output: [\n", "a: b: c\n", "output: out\n\tseed: 1\n"])
def test_yaml_error_names_the_file(load, tmp_path, text):
    with pytest.raises(ConfigError) as e:
        load(text)
    assert str(e.value).startswith(f"cannot read the configuration {tmp_path / 'run.yaml'}: ")
    assert "line " in str(e.value)


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none\.yaml"):
        load_config(str(tmp_path / "none.yaml"), {})
    (tmp_path / "x.yaml").write_bytes(b"output: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*x\.yaml"):
        load_config(str(tmp_path / "x.yaml"), {})


@pytest.mark.parametrize(("text", "kind"), [("- a\n", "list"), ("text\n", "str"), ("3\n", "int")])
def test_file_that_is_no_mapping(load, text, kind):
    with pytest.raises(
        ConfigError, match=rf"run\.yaml: a configuration is a mapping, not a {kind}"
    ):
        load(text)


def test_empty_file_is_no_settings(load):
    assert load("# nothing\n", {"output": "out"}) == RunConfig(output="out")


def test_python_objects_are_refused(load, tmp_path):
    witness = tmp_path / "witness"
    for tag in ("object/apply:os.mkdir", "object/new:os.mkdir"):
        with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
            load(f"output: !!python/{tag} ['{witness}']\n")
    assert not witness.exists()


@pytest.mark.parametrize("output", ["s3://bucket/run", "gs://b/r", "hf://datasets/x", "file:///x"])
def test_uri_output_is_refused(output):
    with pytest.raises(ConfigError, match=r"output: .*not a URI"):
        load_config(None, {"output": output})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"messages": "chat", "prompt": "q"}, "reads no prompt"),
        ({"messages": "chat", "input": "i", "response": "a"}, "reads no input and response"),
        ({"prompt": "q"}, "names messages, or prompt and response"),
        ({"system": "s"}, "names messages, or prompt and response"),
    ],
)
def test_a_field_map_is_read_whole_or_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        load_config(None, {"output": "out", "corpus.fields": fields})


def test_field_maps_of_turns_and_of_pairs():
    for fields in (
        {"messages": "chat", "system": "sys", "history": "h", "tools": "t"},
        {"prompt": "q", "response": "a", "input": "i", "system": "s", "history": "h", "tools": "t"},
    ):
        config = load_config(None, {"output": "out", "corpus.fields": fields})
        assert config.corpus.fields == fields


def test_an_output_that_no_file_system_has_is_refused():
    for output in ("a\0b", "a\ud83d"):
        with pytest.raises(ConfigError, match=r"output: .* NUL character, or bytes that are no"):
            load_config(None, {"output": output})


def test_switches_are_switches():
    config = load_config(None, {"output": "o", "capture.compile": True, "capture.store_raw": False})
    assert config.capture.compile


@pytest.mark.parametrize(
    "text", ["[" * 20_000, "a: " + "{b: " * 20_000, "date: 2024-99-99\n", "x: &a [*a]\noutput: [\n"]
)
def test_a_text_that_yaml_cannot_hold_is_refused(load, text):
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load(text)


def fields_of(model, group=""):
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from fields_of(field.annotation, f"{name}.")
        else:
            yield group + name, field


def test_every_setting_says_what_it_is():
    """In sentences: the first is the help of its flag, all are on the reference page."""
    fields = dict(fields_of(RunConfig))
    assert list(settings()) == list(fields)
    for name, setting in settings().items():
        assert setting.description == fields[name].description, name
        assert setting.description[0].isupper(), name
        assert setting.description.endswith("."), name


@pytest.mark.parametrize(
    ("name", "kind", "shape", "values", "limits"),
    [
        ("input", str, "list", (), ""),
        ("seed", int, "one", (), "at least 0, below 2,147,483,648"),
        ("output_format", str, "one", ("jsonl", "parquet"), ""),
        ("corpus.text_only", bool, "one", (), ""),
        ("capture.engine", str, "one", ("transformers", "vllm"), ""),
        ("clustering.levels", int, "list", (), "at least 1"),
        ("selection.fraction", float, "one", (), "above 0, at most 1"),
        ("ray.workers", int, "one", (), "at least 1"),
    ],
)
def test_what_a_setting_takes(name, kind, shape, values, limits):
    found = settings()[name]
    assert (found.kind, found.shape, found.values, found.limits) == (kind, shape, values, limits)


def test_settings_of_several_values_name_those_that_are_allowed():
    assert settings()["corpus.fields"].shape == "map"
    assert set(settings()["corpus.fields"].values) > {"messages", "prompt", "response"}
    assert settings()["selection.compare"].values == settings()["selection.method"].values
    assert "length-matched-random" in settings()["selection.method"].values


def test_the_bench_times_states_of_the_size_that_capture_makes():
    """`mads_ray.bench` knows these sizes without pydantic."""
    defaults = CaptureConfig()
    assert defaults.neurons_per_layer == capture.NEURONS_PER_LAYER
    assert defaults.sketch_dim == capture.SKETCH_DIM
