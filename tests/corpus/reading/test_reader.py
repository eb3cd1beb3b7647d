"""Every row of every format arrives exactly, broken rows say why, broken files are refused."""

import datetime
import decimal
import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mads_ray.corpus.reading import raw_row
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.errors import CorpusError

datasets.disable_progress_bars()
BOM = b"\xef\xbb\xbf"


def compress(name, data):
    if name.endswith(".gz"):
        return gzip.compress(data)
    if name.endswith(".zst"):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as out:
            out.write(data)
        return sink.getvalue().to_pybytes()
    return data


def read_path(path):
    (file,) = discover([str(path)]).files
    return list(read_rows(file))


def read(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    return read_path(path)


def good(rows):
    assert [r.error for r in rows] == [None] * len(rows)
    assert [r.index for r in rows] == list(range(len(rows)))
    return [r.value for r in rows]


def refused(tmp_path, name, data):
    with pytest.raises(CorpusError) as e:
        read(tmp_path, name, data)
    assert str(e.value).startswith(f"{tmp_path / name}: ")
    return str(e.value)


# --- JSON lines ---


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.jsonl.gz", "x.jsonl.zst", "x.json.zst"])
@pytest.mark.parametrize("last", [b"", b"\n"])
def test_jsonl_is_kept_byte_for_byte(tmp_path, name, last):
    lines = [
        '{"b": 1.50,  "a":"\\u00e9 é 😀"}',
        '{"a": 1e400, "a": 123456789012345678901234567890}',
        '{"t": "x\\r\\n\u2028\u0085y"}',
        "[1, 2]",
    ]
    data = "\n".join(lines).encode() + last
    rows = read(tmp_path, name, compress(name, data))
    assert [r.raw for r in rows] == lines
    assert good(rows) == [json.loads(line) for line in lines]


def test_jsonl_with_bom_crlf_and_blank_lines(tmp_path):
    data = BOM + b'{"a":1}\r\n\r\n  \n\n {"a":2}\t\r\n{"a":3}\r\n\n'
    rows = read(tmp_path, "x.jsonl", data)
    assert good(rows) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert [r.raw for r in rows] == ['{"a":1}', '{"a":2}', '{"a":3}']


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json"])
@pytest.mark.parametrize("data", [b"", b"\n \n", BOM])
def test_empty_file_has_no_rows(tmp_path, name, data):
    assert read(tmp_path, name, compress(name, data)) == []


def test_several_gzip_and_zstd_members_are_one_file(tmp_path):
    for name in ("x.jsonl.gz", "x.jsonl.zst"):
        data = compress(name, b'{"a":1}\n') + compress(name, b'{"a":2}\n')
        assert good(read(tmp_path, name, data)) == [{"a": 1}, {"a": 2}]


def test_invalid_json_line_is_one_bad_row(tmp_path):
    rows = read(tmp_path, "x.jsonl", b'{"a":1}\n\n{"a": oops}\n{"a":3}\n')
    assert [(r.index, r.value, r.raw) for r in rows] == [
        (0, {"a": 1}, '{"a":1}'),
        (1, None, '{"a": oops}'),
        (2, {"a": 3}, '{"a":3}'),
    ]
    assert (rows[1].error.reason, rows[1].error.field) == ("invalid_json", "")
    assert rows[1].error.message == "line 3 is not JSON: Expecting value (column 7)"


def test_invalid_utf8_line_is_one_bad_row(tmp_path):
    rows = read(tmp_path, "x.jsonl", b'{"a":1}\n{"a":"caf\xe9"}\n{"a":3}\n')
    assert [r.value for r in rows] == [{"a": 1}, None, {"a": 3}]
    assert rows[1].error.reason == "invalid_unicode"
    assert rows[1].error.message == "line 2 is not UTF-8 at byte 9"
    assert rows[1].raw == '{"a":"caf\ufffd"}'


def test_line_nested_too_deeply_is_one_bad_row(tmp_path):
    deep = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
    rows = read(tmp_path, "x.jsonl", deep + b'\n{"a":2}\n')
    assert [r.value for r in rows] == [None, {"a": 2}]
    assert rows[0].error.reason == "invalid_json"
    assert rows[0].error.message == "line 1 is not JSON: nested too deeply"


def test_line_with_an_integer_python_refuses_is_one_bad_row(tmp_path):
    rows = read(tmp_path, "x.jsonl", b'{"a":' + b"9" * 5000 + b'}\n{"a":2}\n')
    assert [r.value for r in rows] == [None, {"a": 2}]
    assert rows[0].error.reason == "invalid_json"


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.json.gz"])
def test_row_of_a_megabyte_is_kept(tmp_path, name):
    lines = [json.dumps({"a": c * 2**20}) for c in "xé"] + ['{"a": 3}']
    rows = read(tmp_path, name, compress(name, "\n".join(lines).encode()))
    assert [r.raw for r in rows] == lines
    assert good(rows) == [{"a": "x" * 2**20}, {"a": "é" * 2**20}, {"a": 3}]


@pytest.mark.parametrize("extra", [1, 2, 99, 100, 101, 1000])
def test_monster_row_does_not_hurt_its_neighbours(tmp_path, monkeypatch, extra):
    monkeypatch.setattr(raw_row, "MAX_ROW_BYTES", 100)
    monster = b'{"a":"' + b"x" * (100 + extra - 8) + b'"}'
    assert len(monster) == 100 + extra
    rows = read(tmp_path, "x.jsonl", b'{"a":1}\n' + monster + b'\n{"a":3}\n' + monster)
    assert [(r.index, r.value) for r in rows] == [
        (0, {"a": 1}),
        (1, None),
        (2, {"a": 3}),
        (3, None),
    ]
    assert [r.error and r.error.reason for r in rows] == [None, "row_too_large"] * 2
    assert rows[1].error.message.startswith("line 2 is longer than")


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_row_of_just_the_limit_is_kept(tmp_path, monkeypatch, end):
    monkeypatch.setattr(raw_row, "MAX_ROW_BYTES", 100)
    line = b'{"a":"' + b"x" * 92 + b'"}'
    assert good(read(tmp_path, "x.jsonl", line + end)) == [{"a": "x" * 92}]


# --- JSON ---

ARRAY = [{"a": 1, "f": 1.5, "t": "é\u2028", "n": None, "l": [True, {}]}, "text", {"a": -2}]


@pytest.mark.parametrize("name", ["x.json", "x.json.gz", "x.json.zst"])
@pytest.mark.parametrize("head", [b"", BOM, b" \n", BOM + b"\r\n"])
def test_json_array(tmp_path, name, head):
    text = json.dumps(ARRAY, indent=2, ensure_ascii=False)
    rows = read(tmp_path, name, compress(name, head + text.encode()))
    assert good(rows) == ARRAY
    assert [r.raw for r in rows] == [json.dumps(v, ensure_ascii=False) for v in ARRAY]


def test_empty_json_array(tmp_path):
    assert read(tmp_path, "x.json", b"[ ]") == []


def test_json_array_is_streamed(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"[" + (b'{"a": "' + b"x" * 1000 + b'"},') * 5000 + b" broken")
    (file,) = discover([str(path)]).files
    rows = read_rows(file)
    assert [next(rows).index for _ in range(100)] == list(range(100))  # the end is not seen yet
    with pytest.raises(CorpusError, match="unreadable after row 5000: "):
        list(rows)


def test_json_file_of_json_lines(tmp_path):
    rows = read(tmp_path, "x.json", BOM + b'\n{"a":1}\n{"a": oops}\n{"a":3}\n')
    assert [r.value for r in rows] == [{"a": 1}, None, {"a": 3}]
    assert rows[0].raw == '{"a":1}'
    assert rows[1].error.reason == "invalid_json"


@pytest.mark.parametrize("data", [b'"text"', b"17", b"not json", b'{"a": 1} x'])
def test_json_of_another_shape_is_refused(tmp_path, data):
    message = refused(tmp_path, "x.json", data)
    assert "must hold an array of rows, or one row object a line" in message


def test_deeply_nested_json_is_refused(tmp_path):
    rows = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}\n"
    try:
        found = read(tmp_path, "x.json", rows)
    except CorpusError:
        return
    assert [r.error.reason for r in found] == ["invalid_json"]


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b'[{"a":1},{"a":2},{"a":', 2),
        (b'[{"a":1},{"a":2}', 2),
        (b'[{"a":1},{"a":2},]', 2),
        (b'[{"a":1}] {"a":2}', 1),
        (b"[", 0),
    ],
)
def test_broken_json_array_names_file_and_rows(tmp_path, data, count):
    assert f"unreadable after row {count}: " in refused(tmp_path, "x.json", data)


def test_json_array_that_is_not_utf8_is_refused(tmp_path):
    refused(tmp_path, "x.json", b'[{"a":1},{"a":"\xff"}]')


def test_json_array_holds_big_integers(tmp_path):
    values = [{"id": 2**64}, {"id": -(10**25)}, {"id": 3}]
    rows = read(tmp_path, "x.json", json.dumps(values).encode())
    assert good(rows) == values
    assert rows[0].raw == '{"id": 18446744073709551616}'


def test_lone_surrogate_in_json_array_is_one_bad_row(tmp_path):
    """As in JSONL, where the row is quarantined; it must not be altered silently."""
    rows = read(tmp_path, "x.json", b'[{"prompt":"a\\ud800b"},{"prompt":"c"}]')
    assert rows[1].value == {"prompt": "c"}
    assert rows[0].error is not None or rows[0].value == {"prompt": "a\ud800b"}


# --- broken files ---


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.json.gz"])
@pytest.mark.parametrize("cut", [1, 5, 2000])
def test_truncated_compression_is_refused(tmp_path, name, cut):
    data = compress(name, b"".join(b'{"a":"%d"}\n' % (i * 7919**3) for i in range(20_000)))
    assert len(data) > 4000
    assert "Truncated compressed stream" in refused(tmp_path, name, data[:-cut])


def test_truncated_file_tells_how_far_it_got(tmp_path):
    data = compress("x.gz", b"".join(b'{"a":"%d"}\n' % (i * 7919**3) for i in range(60_000)))
    count = int(refused(tmp_path, "x.jsonl.gz", data[:-5]).split("after row ")[1].split(":")[0])
    assert 1000 < count < 60_000


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.json.gz", "x.parquet"])
def test_garbage_is_refused(tmp_path, name):
    assert "unreadable after row 0: " in refused(tmp_path, name, b"this is plain text, " * 20)


def test_empty_and_truncated_parquet_are_refused(tmp_path):
    refused(tmp_path, "x.parquet", b"")
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "whole.parquet")
    refused(tmp_path, "x.parquet", (tmp_path / "whole.parquet").read_bytes()[:-20])


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz"])
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be", "utf-32"])
def test_utf16_is_refused(tmp_path, name, codec):
    data = ("\ufeff" if codec.endswith("be") else "") + '{"a": 1}\n'
    message = refused(tmp_path, name, compress(name, data.encode(codec)))
    assert message.endswith("this file is UTF-16; convert it to UTF-8")


def test_missing_file_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"{}")
    (file,) = discover([str(tmp_path / "x.jsonl")]).files
    (tmp_path / "x.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"x\.jsonl: unreadable after row 0"):
        list(read_rows(file))


# --- Parquet ---


def write_parquet(path, rows, schema=None, **options):
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)


def test_parquet_over_many_row_groups(tmp_path):
    values = [{"prompt": f"q{i}", "completion": "é", "n": i} for i in range(1300)]
    write_parquet(tmp_path / "x.parquet", values, row_group_size=100)
    rows = read_path(tmp_path / "x.parquet")
    assert good(rows) == values
    assert rows[1299].raw == '{"prompt": "q1299", "completion": "é", "n": 1299}'


def test_parquet_types_without_a_json_form(tmp_path):
    row = {
        "date": datetime.date(2024, 2, 29),
        "when": datetime.datetime(2024, 2, 29, 1, 2, 3, 4),
        "time": datetime.time(1, 2, 3),
        "span": datetime.timedelta(hours=1, milliseconds=500),
        "bytes": b"\xff\x00",
        "money": decimal.Decimal("1.20"),
        "nested": {"list": [{"x": 1, "b": b"a"}, None], "null": None},
        "turns": [{"role": "user", "content": "Q"}],
    }
    write_parquet(tmp_path / "x.parquet", [row])
    (found,) = read_path(tmp_path / "x.parquet")
    assert found.value == row
    assert json.loads(found.raw) == {
        "date": "2024-02-29",
        "when": "2024-02-29T01:02:03.000004",
        "time": "01:02:03",
        "span": 3600.5,
        "bytes": "/wA=",
        "money": "1.20",
        "nested": {"list": [{"x": 1, "b": "YQ=="}, None], "null": None},
        "turns": [{"role": "user", "content": "Q"}],
    }


def test_parquet_date_beyond_python_is_no_crash(tmp_path):
    """Year 148000: a bad row or a refused file, but an error a user can act on."""
    table = pa.table({"when": pa.array([0, 2**62], pa.timestamp("us")), "prompt": ["a", "b"]})
    pq.write_table(table, tmp_path / "x.parquet")
    try:
        rows = read_path(tmp_path / "x.parquet")
    except CorpusError as e:
        message = str(e)
        assert message.startswith(f"{tmp_path / 'x.parquet'}: ")
        return
    assert len(rows) == 2


def test_value_without_any_json_form_is_one_bad_row():
    row = raw_row.as_row(3, {"x": object()})
    assert (row.index, row.raw, row.error.reason) == (3, "", "not_json")
    assert "values of type object" in row.error.message
    assert raw_row.as_row(0, {"x": "\ud800"}).error.reason == "not_json"


# --- datasets.save_to_disk ---


def dataset(n=6):
    return datasets.Dataset.from_list(
        [{"prompt": f"q{i}", "completion": "a", "turns": [{"role": "x"}] * i} for i in range(n)]
    )


def test_saved_dataset(tmp_path):
    dataset().save_to_disk(tmp_path / "ds")
    rows = read_path(tmp_path / "ds")
    assert good(rows) == dataset().to_list()
    assert rows[1].raw == '{"prompt": "q1", "completion": "a", "turns": [{"role": "x"}]}'


@pytest.mark.parametrize("num_shards", [1, 3])
def test_saved_dataset_with_an_indices_mapping(tmp_path, num_shards):
    shuffled = dataset(20).shuffle(seed=3).select([4, 1, 1, 19, 0])
    assert shuffled._indices is not None
    shuffled.save_to_disk(tmp_path / "ds", num_shards=num_shards)
    prompts = [v["prompt"] for v in good(read_path(tmp_path / "ds"))]
    assert prompts == shuffled["prompt"][:]
    assert prompts != [f"q{i}" for i in range(5)]


def test_saved_dataset_dict_is_one_file_a_split(tmp_path):
    parts = {"train": dataset(3), "extra": dataset(6).select([5, 0])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "ds")
    files = discover([str(tmp_path / "ds")]).files
    assert [f.path for f in files] == [str(tmp_path / "ds" / n) for n in ("extra", "train")]
    prompts = [[v["prompt"] for v in good(list(read_rows(f)))] for f in files]
    assert prompts == [["q5", "q0"], ["q0", "q1", "q2"]]


def test_saved_format_of_a_dataset_does_not_matter(tmp_path):
    """save_to_disk also stores `with_format`, which hides columns and turns lists into arrays."""
    dataset().with_format("numpy", columns=["turns"]).save_to_disk(tmp_path / "ds")
    assert good(read_path(tmp_path / "ds")) == dataset().to_list()


@pytest.mark.parametrize("damage", ["state", "arrow", "missing"])
def test_damaged_dataset_is_refused(tmp_path, damage):
    dataset().save_to_disk(tmp_path / "ds")
    arrow = tmp_path / "ds" / "data-00000-of-00001.arrow"
    if damage == "state":
        (tmp_path / "ds" / "state.json").write_text("{}")
    elif damage == "arrow":
        arrow.write_bytes(b"garbage")
    else:
        arrow.unlink()
    with pytest.raises(CorpusError, match=r"ds: not a datasets\.save_to_disk folder"):
        read_path(tmp_path / "ds")
