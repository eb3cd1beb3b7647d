"""A file read in pieces is the file read whole: rows, numbers, messages and errors."""

import bz2
import gzip
import json
import lzma
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mads_ray.config import CorpusConfig
from mads_ray.corpus.reading import raw_row
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.corpus.spool import cuts
from mads_ray.corpus.spool.cuts import cuts_of, measure, pieces_of
from mads_ray.corpus.spool.first_pass import spool_piece
from mads_ray.corpus.spool.pieces import Piece, read_piece
from mads_ray.errors import BrokenFileError, ChangedFileError

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True) if data else b"",
}


@contextmanager
def sizes(piece=None, packed=0, row=None):
    with ExitStack() as stack:
        if piece is not None:
            stack.enter_context(patch.object(cuts, "_PIECE_BYTES", piece))
        stack.enter_context(patch.object(cuts, "_PACKED_BYTES", packed))
        if row is not None:
            stack.enter_context(patch.object(raw_row, "MAX_ROW_BYTES", row))
        yield


def cut(file, spool):
    return pieces_of(3, file, [measure(3, file, c, spool) for c in range(cuts_of(file))])


def in_pieces(pieces, spool):
    """Rows of all pieces, from their last to their first: none may depend on another."""
    found = {p.number: list(read_piece(Piece.from_json(p.to_json()), spool)) for p in pieces[::-1]}
    return [row for number in sorted(found) for row in found[number]]


def outcome(read):
    """All that a reader shows: rows with their errors, and the error that ends it."""
    try:
        return [
            (r.index, r.raw, repr(r.value), r.error and (r.error.reason, r.error.message))
            for r in read()
        ]
    except BrokenFileError as e:
        return [str(e), e.rows]


def compare(name, data, size, row=None):
    with tempfile.TemporaryDirectory() as folder, sizes(size, 0, row):
        path, spool = Path(folder, name), Path(folder, "spool")
        path.write_bytes(data)
        (file,) = discover([str(path)]).files
        pieces = cut(file, spool)
        whole = outcome(lambda: read_rows(file))
        assert outcome(lambda: in_pieces(pieces, spool)) == whole
        return pieces, whole


KINDS = (
    *(b'{"a": 1}', b"", b"  ", b"\r", b"{broken", b'{"a": "\xff"}', b'"text"', b"[1]"),
    *(b'{"a": "' + b"x" * 40 + b'"}', b"y" * 70, b" " * 70),
    *(b"\xef\xbb\xbf{}", b"\x00", b"\x0c"),
)
LINES = st.lists(st.sampled_from(KINDS), max_size=12)


@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans(), st.integers(1, 90))
def test_lines_in_pieces(lines, end, bom, last, size):
    lines = [b'{"b": 0}', b'{"c": 0}', *lines]  # a beginning that is cut
    data = b"\xef\xbb\xbf" * bom + end.join(lines) + end * last
    pieces, _ = compare("x.jsonl", data, size, row=50)
    assert len(data) <= size or {p.kind for p in pieces} == {"bytes"}
    pieces, _ = compare("x.jsonl.gz", gzip.compress(data), size, row=50)
    assert {p.kind for p in pieces} == {"chunk"}


@given(st.binary(max_size=60), st.integers(1, 70), st.sampled_from(sorted(PACK)))
def test_any_bytes_in_pieces(data, size, pack):
    compare("x.jsonl" + pack, PACK[pack](data), size)
    compare("x.json" + pack, PACK[pack](data), size)


@pytest.mark.parametrize("pack", sorted(PACK))
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_broken_compressed_file_is_told_as_before(pack, damage):
    lines = b"".join(b'{"a": "%d"}\n' % (i * 7919 % 10007) for i in range(20_000))
    data = PACK[pack](lines)
    middle = len(data) // 2
    data = (
        data[:-9] if damage == "cut" else data[:middle] + b"\xff\xff\xff\xff" + data[middle + 4 :]
    )
    pieces, whole = compare("x.jsonl" + pack, data, 10_000)
    if pack:
        assert [p.kind for p in pieces] == ["whole"]
        assert "unreadable after row" in whole[0]
    else:
        assert len(pieces) > 10


@pytest.mark.parametrize("rows", [0, 1, 1000])
@pytest.mark.parametrize("size", [1, 3000, 1 << 30])
def test_parquet_in_pieces(tmp_path, rows, size):
    table = pa.table({"a": [f"{i} " * (i % 30) for i in range(rows)], "b": list(range(rows))})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=90)
    pieces, whole = compare("x.parquet", (tmp_path / "x.parquet").read_bytes(), size)
    assert len(whole) == rows
    assert len(pieces) > 1 or rows < 1000 or size > 3000


def test_a_broken_row_group_is_told_as_before(tmp_path):
    table = pa.table({"a": [os.urandom(20).hex() for i in range(1000)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=100, compression="gzip")
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    begin = len(data) * 55 // 100
    data[begin : begin + 400] = os.urandom(400)
    _, whole = compare("x.parquet", bytes(data), 1)  # reads the pieces from the last to the first
    assert "unreadable after row" in whole[0]


def big(tmp_path, name="x.jsonl", rows=300):
    (tmp_path / "in").mkdir(exist_ok=True)
    lines = [json.dumps({"prompt": f"q{i}", "completion": "a"}) for i in range(rows)]
    data = "\n".join(lines).encode()
    (tmp_path / "in" / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return discover([str(tmp_path / "in")]).files[0]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_file_that_changes_between_the_passes(tmp_path, name):
    file = big(tmp_path, name)
    with sizes(500):
        pieces = cut(file, tmp_path / "spool")
        assert len(pieces) > 5
        path = Path(file.path)
        data = path.read_bytes()
        path.write_bytes(data + b"\n")
        with pytest.raises(ChangedFileError, match="since it was found"):
            list(read_piece(pieces[4], tmp_path / "spool"))
        with pytest.raises(ChangedFileError, match="since it was found"):
            measure(3, file, 0, tmp_path / "other")
        if name == "x.jsonl":  # other rows of the same length, and times as they were
            path.write_bytes(data.replace(b"}\n{", b"}  ", 1 << 30))
            os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
            with pytest.raises(ChangedFileError, match=r"had \d+ rows after row"):
                list(read_piece(pieces[4], tmp_path / "spool"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_pieces_are_not_measured_or_read_twice(tmp_path, name):
    file = big(tmp_path, name)
    args = (CorpusConfig(), tmp_path / "spool", tmp_path / "q")
    with sizes(500):
        pieces = cut(file, tmp_path / "spool")
        found = [spool_piece(p, *args) for p in pieces]
        assert sum(f.read for f in found) == 300
        assert not list((tmp_path / "spool").glob("chunk-*"))  # each is removed when it was read
        Path(file.path).unlink()
        assert cut(file, tmp_path / "spool") == pieces
        assert [spool_piece(p, *args) for p in pieces] == found


def test_small_files_need_no_look(tmp_path):
    for name in ("x.jsonl", "y.jsonl.gz"):
        file = big(tmp_path, name)
        assert cuts_of(file) == 0
        assert pieces_of(0, file, []) == [Piece(0, file)]
