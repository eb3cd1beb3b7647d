"""Inputs are found the same way however they are named."""

import os
from pathlib import Path

import datasets
import pytest

from mads_ray.config import load_config
from mads_ray.corpus.reading.discovery import InputFile, discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.errors import ConfigError, CorpusError

datasets.disable_progress_bars()


@pytest.fixture
def tree(tmp_path):
    for name in (
        *("b.jsonl", "a.jsonl", "c.JSON", "notes.txt", "d.parquet", "README"),
        *("sub/e.ndjson.gz", "sub/f.jsonl.zst", "sub/g.parquet.gz", "sub/h.txt.gz"),
        *("sub/deep/i.jsonl", "sub/deep/er/j.json.gz"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    return tmp_path


def names(root, *patterns):
    return [
        os.path.relpath(f.path, root) for f in discover([f"{root}/{p}" for p in patterns]).files
    ]


def test_one_file(tree):
    stat = (tree / "a.jsonl").stat()
    expected = InputFile(str(tree / "a.jsonl"), "jsonl", None, 2, stat.st_mtime_ns)
    assert discover([str(tree / "a.jsonl")]).files == [expected]


@pytest.mark.parametrize(
    ("name", "file_format", "compression"),
    [
        ("x.json", "json", None),
        ("x.jsonl", "jsonl", None),
        ("x.ndjson", "jsonl", None),
        ("x.parquet", "parquet", None),
        ("x.json.gz", "json", "gzip"),
        ("x.jsonl.gz", "jsonl", "gzip"),
        ("x.JSONL.ZST", "jsonl", "zstd"),
        ("x.ndjson.zst", "jsonl", "zstd"),
    ],
)
def test_formats(tmp_path, name, file_format, compression):
    (tmp_path / name).write_bytes(b"123")
    for pattern in (tmp_path / name, tmp_path, tmp_path / "*"):
        (file,) = discover([str(pattern)]).files
        assert (file.format, file.compression, file.size) == (file_format, compression, 3)


def test_folder_is_walked_and_sorted(tree):
    everything = [
        *("a.jsonl", "b.jsonl", "c.JSON", "d.parquet", "sub/deep/er/j.json.gz"),
        *("sub/deep/i.jsonl", "sub/e.ndjson.gz", "sub/f.jsonl.zst"),
    ]
    assert names(tree, "") == names(tree, ".") == names(tree, "**") == everything
    assert names(tree, "sub") == names(tree, "sub/") == everything[4:]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("[bc].*", ["b.jsonl", "c.JSON"]),
        ("?.jsonl", ["a.jsonl", "b.jsonl"]),
        ("*", ["a.jsonl", "b.jsonl", "c.JSON", "d.parquet"]),
        ("*/*", ["sub/e.ndjson.gz", "sub/f.jsonl.zst"]),
        ("s*/deep/*", ["sub/deep/i.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "sub/deep/i.jsonl"]),
        ("sub/**/*.gz", ["sub/deep/er/j.json.gz", "sub/e.ndjson.gz"]),
        ("sub/**", [*("sub/deep/er/j.json.gz", "sub/deep/i.jsonl"),
                    *("sub/e.ndjson.gz", "sub/f.jsonl.zst")]),
    ],
)  # fmt: skip
def test_globs(tree, pattern, expected):
    assert names(tree, pattern) == expected


def test_repeated_patterns_give_each_file_once(tree):
    found = names(tree, "b.jsonl", "*.jsonl", "a.jsonl", "sub/../b.jsonl", "**/*.jsonl")
    assert found == ["a.jsonl", "b.jsonl", "sub/deep/i.jsonl"]


def test_relative_path_becomes_absolute(tree, monkeypatch):
    monkeypatch.chdir(tree / "sub")
    assert [f.path for f in discover(["../a.jsonl", "deep"]).files] == [
        str(tree / "a.jsonl"),
        *(str(tree / "sub/deep" / n) for n in ("er/j.json.gz", "i.jsonl")),
    ]


def test_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "[ab].jsonl").write_bytes(b"{}")
    (tmp_path / "a.jsonl").write_bytes(b"{}")
    assert names(tmp_path, "[ab].jsonl") == ["[ab].jsonl"]


@pytest.mark.parametrize("name", ["notes.txt", "README", "sub/g.parquet.gz", "sub/h.txt.gz"])
def test_named_file_of_unknown_format(tree, name):
    with pytest.raises(CorpusError, match=f"{name}: unknown format"):
        discover([str(tree), str(tree / name)])


@pytest.mark.parametrize("pattern", ["*.csv", "missing.jsonl", "missing/*.jsonl", "*.txt", "no/**"])
def test_pattern_without_a_match_is_named(tree, pattern):
    with pytest.raises(CorpusError) as e:
        discover([str(tree / "a.jsonl"), f"{tree}/{pattern}"])
    assert f"--input {tree}/{pattern}: no file matches" in str(e.value)


def test_folder_without_a_corpus_file(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"")
    with pytest.raises(CorpusError, match="no file matches"):
        discover([str(tmp_path)])


def test_unknown_scheme():
    with pytest.raises(CorpusError, match=r"s3x://bucket/x\.jsonl: cannot open this file system"):
        discover(["s3x://bucket/x.jsonl"])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("sub/deep", ["sub/deep/er/j.json.gz", "sub/deep/i.jsonl"]),
    ],
)
def test_file_uri(tree, pattern, expected):
    found = discover([f"file://{tree}/{pattern}"]).files
    assert [f.path.removeprefix("file://") for f in found] == [f"{tree}/{n}" for n in expected]


def test_path_and_uri_of_one_file_are_one_input(tree):
    assert len(discover([str(tree / "a.jsonl"), f"file://{tree}/a.jsonl"]).files) == 1


def test_file_uri_is_readable(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"a":1}\n')
    (file,) = discover([f"file://{tmp_path}/x.jsonl"]).files
    assert [r.value for r in read_rows(file)] == [{"a": 1}]


def test_file_uri_with_escapes_is_readable(tmp_path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "x.jsonl").write_bytes(b'{"a":1}\n')
    (file,) = discover([(tmp_path / "a b" / "x.jsonl").as_uri()]).files
    assert [r.value for r in read_rows(file)] == [{"a": 1}]


def test_saved_dataset_is_one_input(tmp_path):
    ds = datasets.Dataset.from_dict({"prompt": ["a"], "completion": ["b"]})
    ds.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": ds}).save_to_disk(tmp_path / "dict")
    for name in ("one", "dict"):
        path = tmp_path / name
        (file,) = discover([str(path)]).files
        path = path / "train" if name == "dict" else path
        files = [p for p in Path(path).rglob("*") if p.is_file()]
        assert (file.path, file.format, file.compression) == (str(path), "dataset", None)
        assert file.size == sum(p.stat().st_size for p in files)
        assert file.mtime_ns == max(p.stat().st_mtime_ns for p in files)


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://key:hidden@bucket/x.jsonl", "s3://bucket/x.jsonl?secret_key=hidden"),
        *("hf://user:hidden@x", "hf://hidden@datasets/a/b", "abfs://c:hidden@a/x.jsonl?sig=hidden"),
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(CorpusError, match="environment") as e:
        discover([uri])
    assert "hidden" not in str(e.value)
    for setting in ("input", "selection.target"):
        with pytest.raises(ConfigError, match="environment") as error:
            load_config(None, {"output": "x", setting: [uri]})
        assert "hidden" not in str(error.value)


def test_a_revision_on_the_hub_is_no_credential():
    assert load_config(None, {"output": "x", "input": ["hf://datasets/a/b@refs/x.jsonl"]}).input


def test_files_of_the_run_itself_are_no_input(tmp_path):
    for name in ("a.jsonl", "out/states/part-0.parquet", "output.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = discover([str(tmp_path)], leave_out=str(tmp_path / "out")).files
    assert [Path(f.path).name for f in found] == ["a.jsonl", "output.jsonl"]
