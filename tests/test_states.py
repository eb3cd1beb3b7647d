import json
from dataclasses import replace

import pytest

from mads_ray.errors import IncompleteError, MismatchError
from mads_ray.states import StatesManifest

MANIFEST = StatesManifest(
    engine="transformers",
    model="a",
    revision="r",
    dtype="bfloat16",
    layers=2,
    width=8,
    neurons_per_layer=2,
    sketch_dim=4,
    hidden_dim=0,
    max_tokens=100,
    calibration="c0ffee",
    calibration_tokens=7,
    calibration_padded_tokens=9,
    requested={"neurons_per_layer": 64, "requested_revision": None},
)


def test_a_manifest_survives_the_disk(tmp_path):
    MANIFEST.save(tmp_path / "manifest.json")
    assert StatesManifest.load(tmp_path / "manifest.json") == MANIFEST
    with pytest.raises(IncompleteError, match="nothing was captured"):
        StatesManifest.load(tmp_path / "other.json")


def test_differences_are_spelled_out(tmp_path):
    MANIFEST.require({"model": "a", "revision": "r", "neurons_per_layer": 64}, tmp_path)
    with pytest.raises(MismatchError, match="model: stored 'a', wanted 'b'") as e:
        MANIFEST.require({"model": "b", "neurons_per_layer": 3, "dtype": "bfloat16"}, tmp_path)
    assert "neurons_per_layer: stored 64, wanted 3" in str(e.value)
    assert "dtype" not in str(e.value)


def test_older_states_were_captured_with_what_was_then_the_only_way(tmp_path):
    """A folder of before a setting existed goes on; with another value than that it does not."""
    one_way = {
        "token_scope": "all",
        "pooling": "max",
        "hook_module": None,
        "calibration_from": None,
    }
    MANIFEST.require(one_way | {"compile": False, "tensor_parallel": 1}, tmp_path)
    with pytest.raises(MismatchError, match="compile: stored False, wanted True"):
        MANIFEST.require({"compile": True}, tmp_path)
    with pytest.raises(MismatchError, match="tensor_parallel: stored 1, wanted 2"):
        MANIFEST.require({"tensor_parallel": 2}, tmp_path)


def test_states_of_before_settings_were_renamed_are_the_same(tmp_path):
    older = replace(MANIFEST, requested={"tokens": "prompt", "requested_revision": None})
    assert older.settings["token_scope"] == "prompt"
    assert "tokens" not in older.settings
    older.require({"token_scope": "prompt"}, tmp_path)
    with pytest.raises(MismatchError, match="token_scope: stored 'prompt', wanted 'all'"):
        older.require({"token_scope": "all"}, tmp_path)


def test_states_of_before_templates_had_a_hash_load_but_do_not_go_on(tmp_path):
    MANIFEST.save(tmp_path / "manifest.json")
    stored = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    del stored["template"], stored["date"]
    (tmp_path / "manifest.json").write_text(json.dumps(stored), encoding="utf-8")
    older = StatesManifest.load(tmp_path / "manifest.json")
    assert older == MANIFEST
    with pytest.raises(MismatchError, match="template: stored '', wanted 'c0de'"):
        older.require({"template": "c0de"}, tmp_path)
    newer = replace(MANIFEST, template="c0de", date="2024-07-26")
    with pytest.raises(MismatchError, match="date: stored '2024-07-26', wanted '2025-01-01'"):
        newer.require({"template": "c0de", "date": "2025-01-01"}, tmp_path)
