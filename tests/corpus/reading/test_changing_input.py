"""Input that changes while it is read ends in one line that names the file; so does broken input,
unless it may be lost."""

import bz2
import gzip
import json
import lzma
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mads_ray.config import CorpusConfig
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.corpus.spool.first_pass import spool_piece
from mads_ray.corpus.spool.pieces import Piece
from mads_ray.errors import BrokenFileError, ChangedFileError
from mads_ray.storage import read_json

datasets.disable_progress_bars()
ROWS = [{"prompt": f"question {i * 7919**3}", "completion": "x" * 40} for i in range(40_000)]
LINES = "".join(json.dumps(r) + "\n" for r in ROWS).encode()


def write(path, rows=40_000):
    data = LINES[: LINES.index(b"\n", rows * len(LINES) // 40_000 - 1) + 1]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS[:rows]), path, row_group_size=1000)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(ROWS[:rows])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, 1000)
    elif path.suffix == ".json":
        path.write_text(json.dumps({"data": ROWS[:rows]}))
    elif path.suffix == ".csv":
        path.write_text("prompt,completion\n" + "1,2\n" * rows)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(data, 1))
    elif path.suffix == ".xz":
        path.write_bytes(lzma.compress(data, preset=0))
    else:
        path.write_bytes(data)


def overwrite(path):
    """In place, as many bytes."""
    with path.open("r+b") as f:
        f.seek(path.stat().st_size // 2)
        f.write(b"y" * 50)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def grow(path):
    with path.open("ab") as f:
        f.write(path.read_bytes()[:1000])


def replace(path):
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    os.replace(new, path)


def remove(path):
    path.unlink()


NAMES = ["x.jsonl", "x.jsonl.gz", "x.jsonl.xz", "x.json", "x.csv", "x.parquet", "x.arrow"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [overwrite, cut, grow, replace, remove])
def test_input_that_changes_between_two_rows(tmp_path, name, change):
    path = tmp_path / name
    write(path)
    (file,) = discover([str(path)]).files
    rows = read_rows(file)
    for _ in range(10):
        next(rows)
    change(path)
    with pytest.raises(ChangedFileError) as e:
        list(rows)
    message = str(e.value)
    assert message.startswith(f"{path}: this file changed while it was read (")
    assert "run the same command again" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [overwrite, cut, grow])
def test_input_that_changes_before_it_is_read(tmp_path, name, change):
    path = tmp_path / name
    write(path, 100)
    (file,) = discover([str(path)]).files
    os.utime(path, ns=(1, file.mtime_ns - 5000))
    change(path)
    with pytest.raises(ChangedFileError, match=r"changed since it was found \("):
        next(read_rows(file))


def test_a_saved_dataset_that_changes(tmp_path):
    datasets.Dataset.from_list(ROWS[:5000]).save_to_disk(tmp_path / "ds")
    (file,) = discover([str(tmp_path / "ds")]).files
    rows = read_rows(file)
    next(rows)
    datasets.Dataset.from_list(ROWS[:10]).save_to_disk(tmp_path / "other")
    os.replace(
        tmp_path / "other" / "data-00000-of-00001.arrow",
        tmp_path / "ds" / "data-00000-of-00001.arrow",
    )
    with pytest.raises(ChangedFileError, match="ds: this file changed while it was read"):
        list(rows)


def test_reading_a_part_of_a_file_needs_no_end(tmp_path):
    write(tmp_path / "x.jsonl", 100)
    (file,) = discover([str(tmp_path)]).files
    rows = read_rows(file)
    assert next(rows).index == 0
    rows.close()


# --- compression ---

COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
DATA = b"".join(b'{"a":"%d"}\n' % (i * 7919**3) for i in range(20_000))


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("form", ["jsonl", "json", "jsonlines", "csv"])
def test_compressed_files(tmp_path, suffix, form):
    path = tmp_path / f"x.{form}{suffix}"
    compress = COMPRESS[suffix]
    data = b"a\n" + DATA if form == "csv" else DATA
    if form == "csv":
        data = b"a\n" + b"1\n" * 20_000
    path.write_bytes(compress(data[:77]) + compress(b"") + compress(data[77:]))
    (file,) = discover([str(path)]).files
    assert len([r for r in read_rows(file) if r.error is None]) == 20_000


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("damage", ["cut", "cut 2000", "flip", "tail", "second", "empty"])
def test_damaged_compression_is_a_broken_file(tmp_path, suffix, damage):
    path = tmp_path / f"x.jsonl{suffix}"
    data = COMPRESS[suffix](DATA)
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:-1],
            "cut 2000": data[:-2000],
            "flip": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
            "tail": data + b"garbage, garbage",
            "second": data + data[:-9],
            "empty": b"",
        }[damage]
    )
    (file,) = discover([str(path)]).files
    with pytest.raises(BrokenFileError, match=r"x\.jsonl.*: unreadable after row [0-9]+: "):
        list(read_rows(file))


def test_padding_of_xz_is_no_damage(tmp_path):
    path = tmp_path / "x.jsonl.xz"
    data = lzma.compress(b'{"a": 1}\n')
    path.write_bytes(data + b"\0" * 8 + data + b"\0" * 4)
    (file,) = discover([str(path)]).files
    assert [r.value for r in read_rows(file)] == [{"a": 1}] * 2


# --- broken files that may be lost ---


def spool(folder, out, skip):
    corpus = CorpusConfig(skip_broken_files=skip)
    files = discover([str(folder)]).files
    return [spool_piece(Piece(i, f), corpus, out / "spool", out / "q") for i, f in enumerate(files)]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(LINES[:2000])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(LINES)[:-500])
    (folder / "c.parquet").write_bytes(b"garbage")
    (folder / "d.json").write_text(json.dumps({"data": [{"b": 1}], "rows": [{"b": 1}]}))
    (folder / "e.csv").write_bytes("a,b\n".encode("utf-16"))
    return folder


def test_a_broken_file_in_a_folder_stops_the_run(folder, tmp_path):
    with pytest.raises(BrokenFileError, match=r"b\.jsonl\.gz: unreadable after row"):
        spool(folder, tmp_path, False)


def test_broken_files_are_lost_whole_and_counted(folder, tmp_path):
    found = spool(folder, tmp_path, True)
    assert [s.read > 0 for s in found] == [True, False, False, False, False]
    lost = [s.lost for s in found[1:]]
    names = ("b.jsonl.gz", "c.parquet", "d.json", "e.csv")
    assert [x.path for x in lost] == [str(folder / n) for n in names]
    assert 10_000 < lost[0].rows < 40_000
    assert [x.rows for x in lost[1:]] == [0, 0, 0]
    assert all(x.reason.startswith(x.path) for x in lost)
    assert sorted(p.name for p in (tmp_path / "spool").glob("run-*")) == ["run-00000-00000.rows"]
    # One half line of a.jsonl is in quarantine, no row of the broken files is.
    assert [p.name for p in (tmp_path / "q").iterdir()] == ["part-ingest-00000-00000.parquet"]
    assert spool(folder, tmp_path, True) == found  # from the markers
    (tmp_path / "spool" / "piece-00001.done.json").unlink()
    assert spool(folder, tmp_path, True) == found  # read again


def test_what_was_lost_is_read_again_where_nothing_may_be(folder, tmp_path):
    spool(folder, tmp_path, True)
    assert read_json(tmp_path / "spool" / "piece-00001.done.json")["lost"]
    with pytest.raises(BrokenFileError, match=r"b\.jsonl\.gz"):
        spool(folder, tmp_path, False)


def test_a_named_broken_file_always_stops_the_run(folder, tmp_path):
    with pytest.raises(BrokenFileError, match=r"c\.parquet"):
        spool(folder / "c.parquet", tmp_path, True)


def test_a_file_that_vanishes_may_be_lost_a_changed_one_never(folder, tmp_path):
    files = discover([str(folder)]).files
    (folder / "a.jsonl").unlink()
    args = (CorpusConfig(skip_broken_files=True), tmp_path / "spool", tmp_path / "q")
    assert "No such file" in spool_piece(Piece(0, files[0]), *args).lost.reason
    grow(folder / "c.parquet")
    with pytest.raises(ChangedFileError, match=r"c\.parquet"):
        spool_piece(Piece(2, files[2]), *args)
