"""However rows lie in a JSON file, they arrive as the same rows."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mads_ray.corpus.reading import json_array
from mads_ray.corpus.reading.discovery import InputFile, discover
from mads_ray.corpus.reading.json_layout import layout_of
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.errors import BrokenFileError

ROWS = [{"instruction": f"q{i}", "output": "é"} for i in range(3)]
TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
SHARE = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


def read(path, text):
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    (file,) = discover([str(path)]).files
    rows = list(read_rows(file))
    assert [r.index for r in rows] == list(range(len(rows)))
    assert all(r.error or json.loads(r.raw) == r.value for r in rows)
    return [r.error.reason if r.error else r.value for r in rows]


def forms(value):
    return [json.dumps(value), json.dumps(value) + "\n", json.dumps(value, indent=2)]


every_name = pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.json.gz", "x.jsonl.gz"])


@every_name
@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        {"data": ROWS},
        {"type": "text2text", "instances": ROWS},
        {"instances": ROWS, "n": 3, "licenses": [], "tags": ["a"], "info": {"list": [{"a": 1}]}},
        {"data": ROWS, "tools": [{"name": "f"}]},
        {"conversations": [{"id": 1, "messages": TURNS}]},
    ],
    ids=lambda v: "-".join(v)[:30] if isinstance(v, dict) else "array",
)
def test_one_list_of_rows(tmp_path, name, value):
    rows = value if isinstance(value, list) else next(
        v for v in value.values() if isinstance(v, list) and len(v) and isinstance(v[0], dict)
    )  # fmt: skip
    for text in forms(value):
        assert read(tmp_path / name, text) == rows


@every_name
@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS},
        {"conversations": SHARE, "id": 7},
        {"tools": [{"name": "f"}], "messages": TURNS},
        {"messages": TURNS, "extra": [{"a": 1}]},
        {"data": ["Name a gas.", "Neon."]},
        {"data": TURNS},
        {"mine": SHARE},
        {"conversation": [{"human": "Q", "assistant": "A"}]},
        {"instruction": "Q", "output": "A", "tools": [{"name": "f"}]},
        {"instruction": "Q", "instances": [{"input": "", "output": "A"}]},
        {"chosen": TURNS, "rejected": TURNS},
        {"a": 1},
        {"a": []},
        TURNS,
        SHARE,
    ],
    ids=lambda v: "-".join(v)[:30] if isinstance(v, dict) else "list",
)
def test_one_row(tmp_path, name, row):
    for text in forms(row):
        assert read(tmp_path / name, text) == [row]


@every_name
def test_one_line_a_row_for_rows_that_are_message_lists(tmp_path, name):
    for rows in ([TURNS, SHARE, TURNS], [["Q", "A"], ["Q2", "A2"]], [[["Q", "A"]], [["Q", "B"]]]):
        assert read(tmp_path / name, "\n".join(map(json.dumps, rows))) == rows


@every_name
def test_message_lists_in_one_array(tmp_path, name):
    for rows in ([TURNS, SHARE], [TURNS]):
        for text in (*forms(rows), *forms({"data": rows})):
            assert read(tmp_path / name, text) == rows


def test_a_line_of_strings_is_a_row_and_a_json_file_of_strings_is_none(tmp_path):
    text = json.dumps(["Q", "A"])
    assert read(tmp_path / "x.jsonl", text) == [["Q", "A"]]
    assert read(tmp_path / "x.json", text) == ["Q", "A"]


@every_name
@pytest.mark.parametrize("between", ["\n", "\n\n", ""])
def test_objects_one_after_another_over_many_lines(tmp_path, name, between):
    text = between.join(json.dumps(r, indent=1) for r in ROWS)
    assert read(tmp_path / name, text) == ROWS


@every_name
def test_arrays_one_after_another(tmp_path, name):
    for between in ("\n", " ", ""):
        text = between.join([json.dumps(ROWS), "[]", json.dumps(ROWS, indent=1)])
        assert read(tmp_path / name, text) == ROWS * 2


@every_name
def test_two_lists_of_objects_are_named(tmp_path, name):
    for text in forms({"train": ROWS, "n": 1, "test": ROWS}):
        with pytest.raises(BrokenFileError, match=r"lists of objects: 'train' and 'test'\. Write"):
            read(tmp_path / name, text)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a": oops}\n{"a": 1}\n', ["invalid_json", {"a": 1}]),
        ('{"a": "cut\n{"a": 1}\n', ["invalid_json", {"a": 1}]),
        ('{"a": 1,\n{"a": 1}\n', ["invalid_json", {"a": 1}]),
        ('{"a": 1}{"a": 2}\n{"a": 3}\n', ["invalid_json", {"a": 3}]),
        ('[{"a": 1\n{"a": 2}\n', ["invalid_json", {"a": 2}]),
        ('nonsense\n{"a": 1}\n', ["invalid_json", {"a": 1}]),
        ('17\n{"a": 1}\n', [17, {"a": 1}]),
    ],
)
def test_a_broken_first_line_of_json_lines_is_one_bad_row(tmp_path, text, rows):
    assert read(tmp_path / "x.jsonl", text) == rows


@every_name
def test_a_first_row_beyond_the_first_chunk(tmp_path, name):
    big = {"instruction": "x" * 3_000_000, "output": "A", "list": [{"a": 1}]}
    assert read(tmp_path / name, "\n".join(json.dumps(r) for r in [big, *ROWS])) == [big, *ROWS]
    assert read(tmp_path / name, json.dumps(big)) == [big]


@every_name
def test_a_large_object_is_streamed(tmp_path, name, monkeypatch):
    """The window holds a chunk and a row of it, never the list."""
    monkeypatch.setattr(json_array, "_CHUNK", 4096)
    longest = 0
    more = json_array.Window._more

    def watched(self, *size):
        nonlocal longest
        found = more(self, *size)
        longest = max(longest, len(self._buffer))
        return found

    monkeypatch.setattr(json_array.Window, "_more", watched)
    rows = [{"input": f"q{i}", "output": "x" * 200} for i in range(5000)]
    for indent in (None, 1):
        text = json.dumps({"v": 1, "data": rows, "w": 2}, indent=indent)
        assert len(text) > 1_000_000
        assert read(tmp_path / name, text) == rows
    assert 4096 <= longest < 20_000


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers()), min_size=2, max_size=5),
    st.booleans(),
)
def test_lines_stay_lines(tmp_path_factory, rows, json_lines):
    """Whatever the rows are, a file with one object a line is read line by line."""
    path = tmp_path_factory.mktemp("x") / "x.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    with path.open("rb") as stream:
        assert layout_of(stream, json_lines, 1 << 20).kind == "lines"
    (file,) = discover([str(path)]).files
    assert isinstance(file, InputFile)
    assert [r.raw for r in read_rows(file)] == [json.dumps(r) for r in rows]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize(
    "row",
    [
        {"ask": "q", "reply": "a", "sources": [{"title": "t"}, {"title": "u"}]},
        {"messages": '[{"role": "user", "content": "q"}]', "documents": [{"title": "t"}]},
        {"question": "q", "answer": "a", "data": [{"score": 1}]},
        {"system": "Be brief.", "data": [{"instruction": "q", "output": "a"}]},
    ],
)
def test_a_list_within_the_only_row_is_not_the_rows(tmp_path, name, row):
    rows = read(tmp_path / name, json.dumps(row))
    assert [r.value if hasattr(r, "value") else r for r in rows] == [row]
