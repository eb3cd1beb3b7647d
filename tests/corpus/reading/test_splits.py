"""Test and validation sets in a folder stay out, unless they are asked for."""

import os

import datasets
import pytest

from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.splits import split_in, split_of
from mads_ray.errors import CorpusError

datasets.disable_progress_bars()


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("test TEST test-00000-of-00001 test_sft gsm8k_test test_0 test1 test.v2 x-test_1", "test"),
        ("eval testing evaluation eval_split test-00000-of-00002-a1b2 x_test-0-of-1", "test"),
        ("validation valid val dev dev_en squad-dev val2 validation_matched", "validation"),
        ("train training train_sft train-00000-of-00003 train_test train_dev x_train", "train"),
        ("latest contest devices developer evaluate validated attest my_eval_prompts", None),
        ("unit_test_generation medieval trial alpaca 0001 part-0001 retest", None),
    ],
)  # fmt: skip
def test_names(names, split):
    assert {name: split_in(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_the_nearest_name_decides():
    assert split_of(["test", "train"]) == "train"
    assert split_of(["train", "test"]) == "test"
    assert split_of(["validation", "part-00001"]) == "validation"
    assert split_of(["a", "b"]) == "train"


@pytest.fixture
def tree(tmp_path):
    for name in ("train.jsonl", "test-0.jsonl.gz", "dev.json", "more.csv", "validation/0001.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def found(root, pattern, *splits):
    files = discover([os.path.join(root, pattern)], splits=splits).files
    return [os.path.relpath(f.path, root) for f in files]


def test_by_default_they_are_left_out_with_a_line(tree):
    assert found(tree, "") == ["more.csv", "train.jsonl"]
    (line,) = discover([str(tree)]).lines()
    assert line.startswith("left out 3 files of other splits: 2 validation, 1 test (e.g. ")
    assert "--split all reads all" in line


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train",), ["more.csv", "train.jsonl"]),
        (("test",), ["test-0.jsonl.gz"]),
        (("eval",), ["test-0.jsonl.gz"]),
        (("valid",), ["dev.json", "validation/0001.jsonl"]),
        (("train", "test"), ["more.csv", "test-0.jsonl.gz", "train.jsonl"]),
        (("more",), ["more.csv"]),
        (("all",), ["dev.json", "more.csv",
                    *("test-0.jsonl.gz", "train.jsonl", "validation/0001.jsonl")]),
    ],
)  # fmt: skip
def test_splits_that_are_asked_for(tree, splits, expected):
    assert found(tree, "", *splits) == expected


def test_globs_leave_them_out_unless_they_name_them(tree):
    assert found(tree, "*") == ["more.csv", "train.jsonl"]
    assert found(tree, "test*") == ["test-0.jsonl.gz"]
    assert found(tree, "**/dev.js*") == ["dev.json"]
    assert found(tree, "valid*/*") == ["validation/0001.jsonl"]


def test_only_names_below_the_folder_count(tree):
    assert found(tree, "validation") == ["validation/0001.jsonl"]
    assert found(tree, "test-0.jsonl.gz") == ["test-0.jsonl.gz"]


def test_a_folder_of_nothing_else_says_how_to_read_it(tree):
    (tree / "train.jsonl").unlink()
    (tree / "more.csv").unlink()
    with pytest.raises(CorpusError, match=r"nothing is left .* --split validation,test reads them"):
        discover([str(tree)])


def test_a_split_that_is_not_there_is_named(tree):
    with pytest.raises(CorpusError, match=r"--split tset: .* are: test, train, validation\)"):
        found(tree, "", "train", "tset")


def test_splits_of_a_saved_dataset(tmp_path):
    rows = datasets.Dataset.from_dict({"prompt": ["a"], "completion": ["b"]})
    names = ("train_sft", "test_sft", "validation", "extra")
    datasets.DatasetDict(dict.fromkeys(names, rows)).save_to_disk(tmp_path / "ds")
    assert found(tmp_path, "ds") == ["ds/extra", "ds/train_sft"]
    assert found(tmp_path, "") == ["ds/extra", "ds/train_sft"]
    assert found(tmp_path, "*") == ["ds/extra", "ds/train_sft"]
    assert found(tmp_path, "ds", "train_sft", "test_sft") == ["ds/test_sft", "ds/train_sft"]
    assert found(tmp_path, "ds", "all") == sorted(f"ds/{n}" for n in names)
    assert found(tmp_path, "ds/test_sft") == ["ds/test_sft"]
    assert found(tmp_path, "ds/test_sft", "test") == ["ds/test_sft"]
    assert {f.named for f in discover([str(tmp_path / "ds")]).files} == {True}
    assert {f.named for f in discover([str(tmp_path)]).files} == {False}


def test_compound_names_say_a_split_too():
    assert [split_in(n) for n in ("testset", "my_devset", "heldout-2", "latest", "holdouts_x")] == [
        "test",
        "validation",
        "test",
        None,
        None,
    ]
