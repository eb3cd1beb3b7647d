"""CSV and TSV: every cell arrives as the text it is."""

import bz2
import csv
import io
import json
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mads_ray.corpus.reading import raw_row
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.errors import BrokenFileError


def read(path, data):
    path.write_bytes(data)
    (file,) = discover([str(path)]).files
    return list(read_rows(file))


def values(rows):
    assert [r.error for r in rows] == [None] * len(rows)
    assert [r.index for r in rows] == list(range(len(rows)))
    assert [json.loads(r.raw) for r in rows] == [r.value for r in rows]
    return [r.value for r in rows]


def test_values_stay_text(tmp_path):
    data = b"a,b,c\n007,NA,1.50\nTrue,,null\n 1 , x,2024-01-01\n"
    assert values(read(tmp_path / "x.csv", data)) == [
        {"a": "007", "b": "NA", "c": "1.50"},
        {"a": "True", "b": None, "c": "null"},
        {"a": " 1 ", "b": " x", "c": "2024-01-01"},
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_marks_and_quotes(tmp_path, end, bom):
    lines = [b"q, a ", b'"a ""b"", c","x\ny"', b"", b'"","1\r\n2"', b"last,line"]
    rows = values(read(tmp_path / "x.csv", bom + end.join(lines)))
    assert rows == [
        {"q": 'a "b", c', "a": "x\ny"},
        {"q": None, "a": "1\r\n2"},
        {"q": "last", "a": "line"},
    ]


@pytest.mark.parametrize("name", ["x.tsv", "x.csv"])
def test_tabs_and_semicolons(tmp_path, name):
    assert values(read(tmp_path / name, b'q\ta\n"1,\t"\t2;\n')) == [{"q": "1,\t", "a": "2;"}]
    if name == "x.csv":
        assert values(read(tmp_path / name, b"q;a\n1,1;2\n")) == [{"q": "1,1", "a": "2"}]


def test_ragged_rows_do_not_hurt_their_neighbours(tmp_path):
    rows = read(tmp_path / "x.csv", b'a,b\n1,2\n"x\ny"\n1,2,3\n5,6\n')
    assert [r.value for r in rows] == [{"a": "1", "b": "2"}, None, None, {"a": "5", "b": "6"}]
    assert [r.error.message for r in rows[1:3]] == [
        "line 3 has 1 cells, the header names 2",
        "line 5 has 3 cells, the header names 2",
    ]
    assert rows[1].error.reason == "ragged_row"
    assert [r.raw for r in rows[1:3]] == ['["x\\ny"]', '["1", "2", "3"]']
    assert [r.index for r in rows] == [0, 1, 2, 3]


def test_text_after_a_quote_is_one_bad_row(tmp_path):
    rows = read(tmp_path / "x.csv", b'a,b\n"He said "hi" to me",x\n1,2\n')
    assert [(r.error and r.error.reason, r.value) for r in rows] == [
        ("invalid_csv", None),
        (None, {"a": "1", "b": "2"}),
    ]
    assert rows[0].error.message.startswith("line 2 is not CSV")
    assert rows[0].raw == '"He said "hi" to me",x'


def test_what_is_not_utf8_is_one_bad_row(tmp_path):
    rows = read(tmp_path / "x.csv", b"a,b\n1,caf\xe9\n1,2\n")
    assert rows[1].value == {"a": "1", "b": "2"}
    assert (rows[0].error.reason, rows[0].error.field) == ("invalid_unicode", "b")
    assert rows[0].error.message == "line 2 is not UTF-8"
    assert rows[0].raw == '{"a": "1", "b": "caf?"}'


def test_a_quote_that_is_never_closed_is_a_broken_file(tmp_path):
    data = b"a,b\n1,2\n" + b'x,"open\n' + b"1,2\n" * 1000
    with pytest.raises(BrokenFileError, match=r"x\.csv: .* line 3 has a quote that is never") as e:
        read(tmp_path / "x.csv", data)
    assert e.value.rows == 1


@pytest.mark.parametrize("data", [b"x" * 200, b'"' + b"y\n" * 100 + b'",1'])
def test_a_row_beyond_the_limit_is_a_broken_file(tmp_path, monkeypatch, data):
    monkeypatch.setattr(raw_row, "MAX_ROW_BYTES", 100)
    with pytest.raises(BrokenFileError, match=r"x\.csv: the row that begins in line 3 is longer"):
        read(tmp_path / "x.csv", b"a,b\n1,2\n" + data + b"\n3,4\n")


def test_a_cell_beyond_the_default_limit_of_csv(tmp_path):
    assert csv.field_size_limit() >= 131072
    for cell in ("x" * 3_000_000, "a\n" * 1_000_000):
        rows = values(read(tmp_path / "x.csv", f'a,b\n"{cell}",2\n'.encode()))
        assert rows == [{"a": cell, "b": "2"}]


@pytest.mark.parametrize("data", [b"", b"\n", b"a,b", b"a,b\n\n"])
def test_no_rows(tmp_path, data):
    assert read(tmp_path / "x.csv", data) == []


def test_headers(tmp_path):
    assert values(read(tmp_path / "x.csv", b",a,\n0,1,2\n")) == [
        {"column 1": "0", "a": "1", "column 3": "2"}
    ]
    with pytest.raises(BrokenFileError, match=r"x\.csv: its first line names the column 'a' twice"):
        read(tmp_path / "x.csv", b"a,b,a\n1,2,3\n")
    with pytest.raises(BrokenFileError, match=r"x\.csv: this file is UTF-16"):
        read(tmp_path / "x.csv", "a,b\n1,2".encode("utf-16"))


@pytest.mark.parametrize("name", ["x.csv.bz2", "x.csv.xz", "x.tsv.bz2"])
def test_compressed(tmp_path, name):
    data = b"a\tb\n" + b"1\t2\n" * 10
    data = bz2.compress(data) if name.endswith("2") else lzma.compress(data)
    assert values(read(tmp_path / name, data)) == [{"a": "1", "b": "2"}] * 10


cells = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(cells, cells), max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_what_csv_writes_is_read(tmp_path_factory, rows, end):
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    path = tmp_path_factory.mktemp("x") / "x.csv"
    assert values(read(path, out.getvalue().encode())) == [{"a": a, "b": b} for a, b in rows]
