"""Arrow files of both kinds, and tables that cannot be rows."""

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.errors import BrokenFileError

VALUES = [{"prompt": f"q{i}", "turns": [{"role": "é", "n": i}]} for i in range(1300)]
WRITERS = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}


def write(path, kind, values=VALUES, batch=700):
    table = pa.Table.from_pylist(values) if isinstance(values, list) else values
    with pa.OSFile(str(path), "wb") as sink, WRITERS[kind](sink, table.schema) as writer:
        writer.write_table(table, batch)


def read(path):
    (file,) = discover([str(path)]).files
    return list(read_rows(file))


@pytest.mark.parametrize("kind", WRITERS)
def test_arrow(tmp_path, kind):
    write(tmp_path / "x.arrow", kind)
    rows = read(tmp_path / "x.arrow")
    assert [r.value for r in rows] == VALUES
    assert [r.index for r in rows] == list(range(1300))
    assert rows[1299].raw == '{"prompt": "q1299", "turns": [{"role": "é", "n": 1299}]}'


def test_feather_and_empty_tables(tmp_path):
    pa.feather.write_feather(pa.Table.from_pylist(VALUES), tmp_path / "x.feather")
    assert [r.value for r in read(tmp_path / "x.feather")] == VALUES
    for kind in WRITERS:
        write(tmp_path / "x.arrow", kind, pa.table({"a": pa.array([], pa.string())}))
        assert read(tmp_path / "x.arrow") == []


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("cut", ["1", "20", "half", "between batches", "all"])
def test_arrow_that_is_cut_short_is_a_broken_file(tmp_path, kind, cut):
    write(tmp_path / "x.arrow", kind)
    data = (tmp_path / "x.arrow").read_bytes()
    write(tmp_path / "y.arrow", kind, VALUES[:700])
    first = len((tmp_path / "y.arrow").read_bytes()) - 8  # without the end mark
    size = {"1": -1, "20": -20, "half": len(data) // 2, "between batches": first, "all": 0}[cut]
    (tmp_path / "x.arrow").write_bytes(data[:size])
    with pytest.raises(BrokenFileError, match=r"x\.arrow: unreadable after row"):
        read(tmp_path / "x.arrow")


@pytest.mark.parametrize("name", ["x.arrow", "x.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    table = pa.table([["a"], ["b"]], names=["prompt", "prompt"])
    if name == "x.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        write(tmp_path / name, "file", table)
    with pytest.raises(BrokenFileError, match="two columns of the name 'prompt'"):
        read(tmp_path / name)


def test_a_cache_of_datasets_is_read_without_its_intermediate_files(tmp_path):
    write(tmp_path / "x-train.arrow", "stream")
    write(tmp_path / "cache-12.arrow", "stream")
    write(tmp_path / "x-test.arrow", "stream")
    (tmp_path / "dataset_info.json").write_text("{}")
    found = discover([str(tmp_path)])
    assert [f.path for f in found.files] == [str(tmp_path / "x-train.arrow")]
    assert {x.why: x.files for x in found.left_out} == {"metadata": 2, "split": 1}


def test_a_saved_dataset_within_a_folder_is_read_as_one(tmp_path):
    rows = datasets.Dataset.from_list(VALUES[:20]).shuffle(seed=1).select(range(5))
    rows.save_to_disk(tmp_path / "sets" / "one")
    (tmp_path / "sets" / "more.jsonl").write_text('{"a": 1}\n')
    for pattern in ("sets", "**", "sets/*"):
        one, more = sorted(discover([str(tmp_path / pattern)]).files, key=lambda f: f.format)
        assert (one.path, more.format) == (str(tmp_path / "sets" / "one"), "jsonl")
        assert [r.value for r in read_rows(one)] == rows.to_list()
