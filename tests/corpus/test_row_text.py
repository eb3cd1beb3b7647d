"""A row's line in a core set: its own text, whatever it holds, on one line that all can read."""

import json
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from odd_rows import deep, deep_text, same, values

from mads_ray.corpus.row_text import TOO_DEEP, fields_of, loads, marked_line

MARKS = {"uid": "0" * 32, "rank": 3, "gain": 1.5, "source": "a\u2028b:1"}


def line(raw, mads=MARKS):
    return marked_line(raw, mads)[0]


def test_a_row_keeps_its_text_to_the_letter():
    raw = '{"b": 1.50,  "a": "\\u00e9 ü", "b": 1e400, "c": "\\ud83d NaN \\"Infinity"}'
    assert line(raw, {"rank": 3}) == raw[:-1] + ', "_mads": {"rank": 3}}'
    assert marked_line(raw, {"rank": 3})[1] == []


def test_a_row_of_an_older_core_set_gets_a_new_mark():
    old = json.dumps({"uid": "1" * 32, "rank": 1})
    for key in ('"_mads"', '"\\u005fm\\u0061ds"'):
        raw = f'{{{key}: {old}, "prompt":  "p", {key} :{old}}}'
        assert line(raw) == f'{{"prompt":  "p", "_mads": {line("{}")[10:-1]}}}'
    assert json.loads(line(f'{{"_mads": {old}}}')) == {"_mads": MARKS}


@pytest.mark.parametrize("value", ["1", "null", '"me"', "[{}]", '{"uid": 3}', deep_text(900)])
def test_a_field_of_that_name_that_is_no_mark_is_kept_under_another(value):
    text, notes = marked_line(f'{{"_mads": {value}, "a": {{"_mads": 1}}}}', MARKS)
    assert same(loads(text), {"_mads_input": loads(value), "a": {"_mads": 1}, "_mads": MARKS})
    assert notes == ["a field _mads that was not ours is now _mads_input"]


def test_the_name_elsewhere_is_no_field():
    raw = '{"a": ["_mads", {"_mads": 2}]}'
    assert line(raw, {}) == raw[:-1] + ', "_mads": {}}'


def test_what_json_has_not_becomes_null():
    text, notes = marked_line('{"a":[NaN,-Infinity, Infinity],"NaN":"NaN"}', MARKS)
    assert text.startswith('{"a":[null,null, null],"NaN":"NaN", ')
    assert notes == ["NaN or Infinity, which JSON has not, is null"]


def test_a_list_of_turns_is_a_row():
    turns = '[{"role": "user",\r"content": "c"}]'
    assert json.loads(line(turns)) == {"messages": json.loads(turns), "_mads": MARKS}


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\t"])
def test_a_row_is_one_line_for_every_reader(end):
    raw = (
        f'{end}{{{end}"a\u2028b"{end}:{end}"c\x85\u2029\\r\\n\\u2028",{end}"d":[{end}1{end}]{end}}}'
    )
    text = line(raw)
    assert text.splitlines() == [text]
    wanted = {"a\u2028b": "c\x85\u2029\r\n\u2028", "d": [1], "_mads": MARKS}
    assert json.loads(text) == wanted


@given(st.dictionaries(st.text(), values(), max_size=6), st.booleans())
@example({"_mads": {"a": 1}, "\ud83d": "\udc00"}, True)
@example({"a": 10**400, "": {"": []}}, False)
def test_every_row_comes_back(row, ascii_only):
    raw = json.dumps(row, ensure_ascii=ascii_only or not _utf8(row))
    row = json.loads(raw)  # as ingest has it: two halves are one character
    text = line(raw)
    assert text.splitlines() == [text]
    found = loads(text.encode())
    assert found.pop("_mads") == MARKS
    if "_mads" in row:
        row["_mads_input"] = row.pop("_mads")
    assert same(found, row, nan_is_null=True)


def _utf8(row):
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def test_fields_are_found_without_parsing_what_is_deep():
    raw = f' {{ "a" : 1 ,"b":{deep_text(900)}, "a":"x" , "c": {{}} }} '
    found = list(fields_of(raw))
    assert [f.name for f in found] == ["a", "b", "a", "c"]
    assert [raw[f.start : f.end] for f in found] == ["1", deep_text(900), '"x"', "{}"]
    assert [f.value for f in found] == [1, TOO_DEEP, "x", {}]


def test_deep_rows_can_be_read_where_the_stack_has_little_room():
    text, before = deep_text(900), sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # as it is at first; other tests may have raised it
    try:
        with pytest.raises(RecursionError):
            _sink(json.loads, text, 300)
        assert same(_sink(loads, text, 300), deep(900))
    finally:
        sys.setrecursionlimit(before)


def _sink(function, text, left):
    return _sink(function, text, left - 1) if left else function(text)
