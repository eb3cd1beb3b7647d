import dataclasses

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
    calibration_rows=10,
    calibration="c0ffee",
)


def test_a_manifest_survives_the_disk(tmp_path):
    MANIFEST.save(tmp_path / "manifest.json")
    assert StatesManifest.load(tmp_path / "manifest.json") == MANIFEST
    with pytest.raises(IncompleteError, match="nothing was captured"):
        StatesManifest.load(tmp_path / "other.json")


def test_differences_are_spelled_out(tmp_path):
    MANIFEST.require(dataclasses.asdict(MANIFEST) | {"dtype": None}, tmp_path)
    with pytest.raises(MismatchError, match="model: stored 'a', wanted 'b'") as e:
        MANIFEST.require({"model": "b", "neurons_per_layer": 3, "dtype": None}, tmp_path)
    assert "neurons_per_layer: stored 2, wanted 3" in str(e.value)
    assert "dtype" not in str(e.value)
