"""Paths that are stored name the same file from any folder, and hold no secrets."""

import os
from pathlib import Path

import pytest

from mads_ray.config import load_config
from mads_ray.errors import ConfigError, CorpusError
from mads_ray.paths import absolute, refuse_credentials


def test_paths_become_absolute_and_uris_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    found = [absolute(p) for p in ("a", "./a/../b", "/x/y", "~/z", "a*.jsonl", "é b")]
    here = str(tmp_path)
    assert found == [
        f"{here}/a",
        f"{here}/b",
        "/x/y",
        "/home/me/z",
        f"{here}/a*.jsonl",
        f"{here}/é b",
    ]
    assert [absolute(f) for f in found] == found
    for uri in ("s3://bucket/../x", "gs://b/~", "hf://datasets/x", "file:///a"):
        assert absolute(uri) == uri
    assert absolute("~nobody-of-that-name/x") == f"{here}/~nobody-of-that-name/x"


@pytest.mark.parametrize(
    "name", ["selection.base_core_set", "selection.target", "capture.calibration_from"]
)
def test_settings_that_name_files(name):
    group, leaf = name.split(".")

    def stored(path):
        value = [path] if leaf == "target" else path
        found = getattr(getattr(load_config(None, {"output": "o", name: value}), group), leaf)
        return found[0] if leaf == "target" else found

    assert stored("a/../b") == os.path.abspath("b")
    assert stored("~/b") == str(Path.home() / "b")
    assert stored("s3://bucket/b") == "s3://bucket/b"
    with pytest.raises(ConfigError, match=rf"{name}: .*an empty path names nothing"):
        stored("")


def test_an_empty_path_names_nothing():
    with pytest.raises(ConfigError, match="an empty path names nothing"):
        absolute("")


@pytest.mark.parametrize("uri", ["s3://key:secret@b/x", "hf://token@x", "gs://b/x?access_token=1"])
def test_secrets_are_refused_and_not_repeated(uri):
    with pytest.raises(CorpusError, match="must not hold credentials") as e:
        refuse_credentials(uri)
    assert "secret@" not in str(e.value)
    refuse_credentials("abfs://container@account/x")
    refuse_credentials("/home/a:b@c")


@pytest.mark.parametrize(
    "name", ["input", "selection.target", "selection.base_core_set", "capture.calibration_from"]
)
def test_settings_with_secrets_are_refused_before_anything_is_written(name):
    """The first thing that a run writes is its settings."""
    uri = "s3://key:hidden@bucket/x"
    value = [uri] if name in ("input", "selection.target") else uri
    with pytest.raises(ConfigError, match="must not hold credentials") as e:
        load_config(None, {"output": "o", name: value})
    assert "hidden" not in str(e.value)
