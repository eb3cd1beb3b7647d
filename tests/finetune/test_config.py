"""Configurations: what they hold, and what is said of one that cannot be."""

import pytest

from mads_ray.errors import ConfigError
from mads_ray.finetune.config import GridConfig, Regime, build, load_grid

GOOD = {
    "output": "out",
    "pool": ["pool.jsonl"],
    "held_out": ["held.jsonl"],
    "arms": {
        "random-5": "random-{seed}.jsonl",
        "mads-5": "mads.jsonl",
        "drawn-5": {0: "a.jsonl", 1: "b.jsonl", 2: "c.txt"},
        "full": None,
    },
    "regimes": [{"name": "short", "steps": 3}, {"name": "long", "epochs": 2}],
}


def test_files_and_references_of_arms():
    config = build(GridConfig, GOOD)
    assert config.seeds == (0, 1, 2)
    assert config.regimes == (Regime("short", steps=3), Regime("long", epochs=2.0))
    assert config.file_of("random-5", 2) == "random-2.jsonl"
    assert config.file_of("drawn-5", 1) == "b.jsonl"
    assert config.file_of("full", 1) is None
    assert config.reference_of("mads-5") == "random-5"
    assert config.reference_of("random-5") is None
    assert config.reference_of("full") is None
    plain = build(GridConfig, GOOD | {"arms": {"random": "r.jsonl", "k-center": "k.jsonl"}})
    assert plain.reference_of("k-center") == "random"
    assert plain.reference_of("random") is None


def test_a_former_name_loads_with_a_warning(caplog):
    config = build(GridConfig, GOOD | {"training": {"micro_batch_tokens": 64}})
    assert config == build(GridConfig, GOOD | {"training": {"batch_tokens": 64}})
    assert [r.getMessage() for r in caplog.records] == [
        "training.micro_batch_tokens is now called training.batch_tokens"
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"training": {"micro_batch_tokens": 64, "batch_tokens": 64}}, "give one of them"),
        ({"epoch": 3}, "epoch: unknown field"),
        ({"training": {"rate": 3}}, "training.rate: unknown field"),
        ({"pool": "pool.jsonl"}, "pool must be a list"),
        ({"seeds": [0, "1"]}, r"seeds\[1\]: '1' is not of type int"),
        ({"seeds": [0, True]}, r"seeds\[1\]: True is not of type int"),
        ({"seeds": [0, 0]}, "seeds: name at least one, and each only once"),
        ({"seeds": []}, "seeds: name at least one"),
        ({"seeds": [0, 7]}, "arms.drawn-5: there is no file for seed 7"),
        ({"regimes": [{"name": "x"}]}, "regime x: give either steps or epochs"),
        ({"regimes": [{"name": "x", "steps": 0}]}, "regime x: give either steps or epochs"),
        ({"arms": {"a.b": None}}, "'a.b': a name has letters"),
        ({"arms": {"untuned": None}}, "'untuned'"),
        ({"training": {"bf16": True}}, "training.bf16: True is none of auto, on, off"),
        ({"evaluation": 3}, "evaluation. must be a mapping"),
    ],
)
def test_what_cannot_be_is_said(change, reason):
    with pytest.raises(ConfigError, match=reason):
        build(GridConfig, GOOD | change)


def test_a_field_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="held_out: this field is missing"):
        build(GridConfig, {k: v for k, v in GOOD.items() if k != "held_out"})
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_grid(str(tmp_path / "absent.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"list.yaml: a configuration must be a mapping"):
        load_grid(str(tmp_path / "list.yaml"))
