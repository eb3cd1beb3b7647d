"""Core sets read from files."""

import json

import pytest

from mads_ray.errors import ConfigError
from mads_ray.evaluation.core_sets import read_core_set

UIDS = [f"{i:032x}" for i in (2**70 + 5, 7, 2**127)]


def hexes(words):
    return [f"{int(h):016x}{int(low):016x}" for h, low in words]


@pytest.fixture
def core_set(tmp_path):
    folder = tmp_path / "core_set"
    folder.mkdir()
    lines = [json.dumps({"prompt": "x", "_mads": {"uid": u}}) + "\n" for u in UIDS]
    (folder / "part-00000.jsonl").write_text("".join(lines[:2]), encoding="utf-8")
    (folder / "part-00001.jsonl").write_text(lines[2] + "\n", encoding="utf-8")
    return folder


def test_a_list_of_uids(tmp_path):
    path = tmp_path / "uids.txt"
    path.write_text("\n".join([*UIDS, "", UIDS[0]]), encoding="utf-8")
    assert hexes(read_core_set(path)) == sorted(UIDS)


def test_files_of_a_core_set(core_set):
    assert hexes(read_core_set(core_set)) == sorted(UIDS)
    assert hexes(read_core_set(str(core_set / "part-00001.jsonl"))) == [UIDS[2]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", f"{UIDS[0]}\nhello\n", r"a\.txt:2: 'hello' is no uid"),
        ("a.txt", "\n", "holds no core set"),
        ("a.jsonl", '{"prompt": "x"}\n', r"a\.jsonl:1: .*_mads\.uid"),
        ("a.jsonl", '{"_mads": {"uid": 3}}\n', "'3' is no uid"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1"),
        ("a.jsonl", "{\n", r"a\.jsonl:1"),
    ],
)
def test_what_is_no_core_set(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_core_set(tmp_path / name)


def test_no_such_file_and_an_empty_folder(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_core_set(tmp_path / "none")
    with pytest.raises(ConfigError, match="holds no core set"):
        read_core_set(tmp_path)
