"""Rows of any shape as Parquet, and back."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from odd_rows import deep, deep_text, names, same, values

from mads_ray.corpus.row_table import MOST_COLUMNS, rows_to_table, table_to_rows

MARKS = {"uid": "0" * 32, "rank": 3}


def stored(raws, marks=None):
    """(table as read from a Parquet file, notes)."""
    table, notes = rows_to_table(raws, marks or [MARKS] * len(raws))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    buffer.seek(0)
    return pq.ParquetFile(buffer).read(), notes


def json_columns(table):
    return [f.name for f in table.schema if (f.metadata or {}).get(b"mads_ray")]


def test_rows_of_any_shape_become_a_table():
    rows = [
        {"a": "x", "n": 2**70, "meta": {}, "deep": [{"m": {}}], "mixed": 1},
        {"a": None, "n": 1, "meta": {}, "deep": [], "mixed": "one", "only": [1]},
    ]
    table, notes = stored(list(map(json.dumps, rows)))
    read = table.to_pylist()
    assert [r["a"] for r in read] == ["x", None]
    assert [json.loads(r["n"]) for r in read] == [2**70, 1]
    assert [json.loads(r["meta"]) for r in read] == [{}, {}]
    assert [json.loads(r["mixed"]) for r in read] == [1, "one"]
    assert [r["only"] for r in read] == [None, [1]]
    assert [r["_mads"] for r in read] == [MARKS, MARKS]
    assert json_columns(table) == ["n", "meta", "deep", "mixed"]
    assert notes == ["columns of JSON text, for want of one type: n, meta, deep, mixed"]
    assert table.column_names == ["a", "n", "meta", "deep", "mixed", "only", "_mads"]


def test_marks_of_older_core_sets_are_replaced_and_other_fields_of_that_name_kept():
    old = json.dumps({"uid": "1" * 32, "rank": 9})
    table, notes = stored([f'{{"_mads": {old}, "a": 1}}', '{"_mads": [7], "a": 2}'])
    assert table.to_pylist() == [
        {"a": 1, "_mads_input": None, "_mads": MARKS},
        {"a": 2, "_mads_input": [7], "_mads": MARKS},
    ]
    assert notes == ["a field _mads that was not ours is now _mads_input"]


def test_a_value_that_is_too_deep_is_text():
    table, _ = stored([f'{{"a": {deep_text(n)}}}' for n in (3, 900)])
    assert table.column("a").to_pylist() == [deep_text(3), deep_text(900)]
    assert all(same(r["a"], deep(n)) for r, n in zip(table_to_rows(table), (3, 900), strict=True))
    table, _ = stored(['{"a": ' + "[" * 32 + "]" * 32 + "}"])
    assert pa.types.is_list(table.schema.field("a").type)


@pytest.mark.parametrize("rows", [1, 200])
def test_a_row_of_very_many_fields_costs_the_others_nothing(rows):
    """100,000 columns of 200 rows would be 20 million cells; here are 512, and one of text."""
    wide = {f"key {i}": i for i in range(100_000)}
    plain = [{"prompt": "p", "answer": str(i)} for i in range(rows)]
    table, notes = stored([json.dumps(wide | {"prompt": "wide"}), *map(json.dumps, plain)])
    assert table.num_columns == MOST_COLUMNS + 2
    assert {"prompt", "_more", "_mads"} <= set(table.column_names)
    assert table.column("_more").null_count == rows
    found = list(table_to_rows(table))
    assert same(found[0], {**wide, "prompt": "wide", "_mads": MARKS}, absent_is_null=True)
    assert found[-1]["answer"] == str(rows - 1)
    assert notes == ["rare or unwritable fields that share the column _more as JSON text"]


def test_an_object_of_very_many_fields_is_text():
    table, _ = stored([json.dumps({"meta": {f"k{i}": i for i in range(50_000)}}), '{"meta": {}}'])
    assert pa.types.is_string(table.schema.field("meta").type)


def test_the_column_of_rare_fields_takes_no_name_of_a_row():
    raw = json.dumps({"_more": 1, "_more_": 2, "\ud83d": 3})
    table, _ = stored([raw])
    assert table.column_names == ["_more", "_more_", "_more__", "_mads"]
    assert next(table_to_rows(table)) == {"_more": 1, "_more_": 2, "\ud83d": 3, "_mads": MARKS}


@given(st.lists(st.dictionaries(names(), values(), max_size=5), min_size=1, max_size=4))
@example([{"a": 10**400}, {"a": float("nan")}, {"a": "\ud83d"}])
@example([{"a": 1}, {"\ud83d": {"\udc00": 1}}])
@example([{"_mads": 1, "_mads_input": 2}])
@example([{"a": [1, True]}, {"a": [1.5, False]}])
def test_every_row_comes_back(rows):
    raws = list(map(json.dumps, rows))
    table, _ = stored(raws)
    for row, found in zip(map(json.loads, raws), table_to_rows(table), strict=True):
        assert found.pop("_mads") == MARKS
        if "_mads" in row:
            row = {k: v for k, v in row.items() if k not in ("_mads", "_mads_input")}
            found = {k: v for k, v in found.items() if k != "_mads_input"}
        assert same(found, row, nan_is_null=True, absent_is_null=True)
