"""A folder is gone through once, and what is not read of it is counted."""

import os

import pyarrow.fs as pafs
import pytest

from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.patterns import Pattern
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.corpus.reading.walk import walk_local, walk_remote
from mads_ray.errors import CorpusError
from mads_ray.ledger import LeftOut


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'{"a": 1}\n')


def found(root, *patterns):
    result = discover([os.path.join(root, p) for p in patterns])
    return [os.path.relpath(f.path, root) for f in result.files]


def left(root, *patterns):
    result = discover([os.path.join(root, p) for p in patterns])
    return {(x.why, x.what): x.files for x in result.left_out}


def test_what_is_not_read_is_counted_by_suffix(tmp_path):
    make(tmp_path, "a.jsonl", "b.txt", "c.md", "d/e.TXT", "f.txt.gz", "LICENSE", "g.parquet.gz")
    result = discover([str(tmp_path)])
    assert [os.path.basename(f.path) for f in result.files] == ["a.jsonl"]
    assert result.left_out[0] == LeftOut("format", ".txt", 2, str(tmp_path / "b.txt"))
    assert list(result.lines()) == [
        "left out 6 files: 2 .txt, 1 .md, 1 .parquet.gz, 1 .txt.gz, 1 without suffix"
    ]


def test_nothing_left_out_is_no_line(tmp_path):
    make(tmp_path, "a.jsonl")
    assert list(discover([str(tmp_path)]).lines()) == []


def test_a_named_file_is_not_left_out_of_its_folder(tmp_path):
    make(tmp_path, "a.jsonl", ".b.jsonl", "config.json", "test.jsonl")
    assert left(tmp_path, "", ".b.jsonl", "config.json", "test.jsonl") == {}
    everything = [".b.jsonl", "a.jsonl", "config.json", "test.jsonl"]
    assert found(tmp_path, "", ".b.jsonl", "config.json", "test.jsonl") == everything


HIDDEN = [
    *(".ipynb_checkpoints/a-checkpoint.jsonl", "d/.ipynb_checkpoints/b.jsonl", "._a.jsonl"),
    *(".cache/x/y.jsonl", "d/__MACOSX/a.jsonl", "d/.e.jsonl"),
]


@pytest.mark.parametrize("pattern", ["", "**", "*/**", "**/*.jsonl", "*", "*/*"])
def test_hidden_files_are_never_read(tmp_path, pattern):
    make(tmp_path, "a.jsonl", "d/c.jsonl", *HIDDEN)
    assert {*found(tmp_path, pattern)} <= {"a.jsonl", "d/c.jsonl"}
    assert left(tmp_path, "") == {("hidden", ""): 6}


def test_a_pattern_may_name_the_dot(tmp_path):
    make(tmp_path, "a.jsonl", *HIDDEN)
    assert found(tmp_path, "d/.*.jsonl") == ["d/.e.jsonl"]
    assert found(tmp_path, ".cache/**") == [".cache/x/y.jsonl"]
    assert found(tmp_path, ".cache") == [".cache/x/y.jsonl"]
    assert found(tmp_path, "*/__MACOSX/*") == ["d/__MACOSX/a.jsonl"]


def test_hidden_folders_above_the_input_do_not_matter(tmp_path):
    make(tmp_path, ".cache/hub/a.jsonl")
    assert found(tmp_path, ".cache/hub") == [".cache/hub/a.jsonl"]


def test_metadata_is_no_corpus(tmp_path):
    names = ("dataset_infos.json", "tokenizer_config.json", "Config.json", "d/state.json")
    make(tmp_path, "a.json", *names)
    assert found(tmp_path, "") == ["a.json"]
    assert left(tmp_path, "") == {("metadata", ""): 4}


def test_a_folder_with_a_list_of_data_sets_is_no_saved_dataset(tmp_path):
    """As LLaMA-Factory has it."""
    make(tmp_path, "dataset_info.json", "mine.jsonl")
    assert found(tmp_path, "") == ["mine.jsonl"]


def test_a_glob_does_not_enter_what_cannot_match(tmp_path, monkeypatch):
    make(tmp_path, "a.jsonl", "d/b.jsonl", "d/e/f.jsonl", "x/y.jsonl")
    entered = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda p: entered.append(p) or scandir(p))
    assert len(list(walk_local(str(tmp_path), Pattern(("*.jsonl",)), None))) == 1
    assert entered == [str(tmp_path)]
    assert len(list(walk_local(str(tmp_path), Pattern(("d", "*")), None))) == 1
    assert entered[1:] == [str(tmp_path), str(tmp_path / "d")]


@pytest.mark.parametrize("parts", [("**",), ("**", "*.jsonl"), ("*",), ("*", "*"), (".*",)])
def test_walks_of_remote_and_local_folders_agree(tmp_path, parts):
    make(tmp_path, "a.jsonl", "d/c.jsonl", "d/e/f.txt", *HIDDEN)
    remote = walk_remote(pafs.LocalFileSystem(), str(tmp_path), Pattern(parts))
    local = walk_local(str(tmp_path), Pattern(parts), None)
    read = [{e.path: e for e in entries if not e.left_out} for entries in (remote, local)]
    assert read[0] == read[1]
    assert read[0]


# --- links ---


def test_symlink_loops_end(tmp_path):
    make(tmp_path, "a.jsonl", "d/b.jsonl")
    for i in range(5):
        (tmp_path / f"l{i}").symlink_to(".")
        (tmp_path / "d" / f"m{i}").symlink_to("..")
    (tmp_path / "self").symlink_to("self")
    for pattern in ("", "**/*.jsonl"):
        assert found(tmp_path, pattern) == ["a.jsonl", "d/b.jsonl"]
    assert left(tmp_path, "") == {("link", ""): 10, ("dangling", ""): 1}
    assert len(found(tmp_path, "*/*/*.jsonl")) == 2


def test_a_file_reached_by_two_paths_is_read_once(tmp_path):
    make(tmp_path, "z/a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("z/a.jsonl")
    (tmp_path / "c").symlink_to("z")
    assert found(tmp_path, "") == ["z/a.jsonl"]
    assert left(tmp_path, "") == {("link", ""): 2}
    for patterns in (("b.jsonl", "z"), ("z", "b.jsonl"), ("c", "z/a.jsonl"), ("c", "b.jsonl", "z")):
        assert found(tmp_path, *patterns) == ["z/a.jsonl"]
    assert found(tmp_path, "c", "b.jsonl") == ["b.jsonl"]  # none without a link: the first of them


def test_links_to_files_outside_are_read(tmp_path):
    make(tmp_path, "out/blob", "out/more/c.jsonl")
    make(tmp_path, "in/a.jsonl")
    (tmp_path / "in" / "b.jsonl").symlink_to("../out/blob")
    (tmp_path / "in" / "more").symlink_to("../out/more")
    assert found(tmp_path, "in") == ["in/a.jsonl", "in/b.jsonl", "in/more/c.jsonl"]


def test_dangling_links_and_pipes_are_counted(tmp_path):
    make(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("nothing")
    os.mkfifo(tmp_path / "c.jsonl")
    assert found(tmp_path, "") == ["a.jsonl"]
    assert left(tmp_path, "") == {("dangling", ""): 1, ("special", ""): 1}


# --- odd names ---

NAMES = [
    *("a b.jsonl", "50%.jsonl", "a%20b.jsonl", "a#b.jsonl", "a?b.jsonl", "é😀.jsonl", "[1].jsonl"),
    *("a*b.jsonl", "a\nb.jsonl", 'q"\\.jsonl', "-x.jsonl", "a;b&c.jsonl", "a\x1b[1m.jsonl"),
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_read(tmp_path, name):
    make(tmp_path, f"{name}/{name}")
    path = tmp_path / name / name
    for pattern in (str(path), str(tmp_path), f"{tmp_path}/**/*.jsonl", path.as_uri()):
        (file,) = discover([pattern]).files
        assert file.path == str(path)
        assert [r.value for r in read_rows(file)] == [{"a": 1}]


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "d").mkdir()
    os.close(os.open(os.fsencode(tmp_path) + b"/d/caf\xe9.txt", os.O_CREAT))
    make(tmp_path, "a.jsonl")
    assert found(tmp_path, "") == ["a.jsonl"]  # what is not read may be called anything
    os.close(os.open(os.fsencode(tmp_path) + b"/d/caf\xe9.jsonl", os.O_CREAT))
    named = os.fsdecode(os.fsencode(tmp_path) + b"/d/caf\xe9.jsonl")
    for pattern in (str(tmp_path), named, f"{tmp_path}/d/*.jsonl"):
        with pytest.raises(CorpusError, match=r"caf\\udce9.jsonl: the name .* not UTF-8; rename"):
            discover([pattern])


@pytest.mark.parametrize("pattern", ["", "/a\0b.jsonl", "/\0", "*\0", "/a\ud800.jsonl", "\ud800/*"])
def test_what_cannot_be_a_path_is_refused(pattern):
    with pytest.raises(CorpusError, match="--input"):
        discover([pattern])
