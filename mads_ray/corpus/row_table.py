"""Rows of any shape as one Arrow table, and back.

Each field is a column. Where its values have no common type that Parquet takes, or a type of too
many columns, the column holds JSON text, and its metadata says so. A row may have thousands of
fields: these go together into one column of JSON text, because columns of their own would need a
null in every other row. Time and memory are linear in the length of the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from mads_ray.corpus.row_text import (
    MARK,
    NO_NUMBER,
    OWN_MARK,
    RENAMED,
    TOO_DEEP,
    Field,
    as_json,
    fields_of,
    is_mark,
    loads,
)
from mads_ray.printable import is_utf8

MOST_COLUMNS = 512
MOST_LEAVES = 2048  # columns as Parquet counts them: each field of an object is one
PACKED = "_more"
_KIND = b"mads_ray"
_JSON, _OBJECT = b"json", b"json object of further fields"


def rows_to_table(
    raws: Sequence[str], marks: Sequence[dict[str, Any]]
) -> tuple[pa.Table, list[str]]:
    """A table of rows with their `_mads`, and notes on what changed its form.

    A null stands for a field that the row does not have; within objects, too. Where a row has a
    name twice, the last one counts.
    """
    cells: dict[str, dict[int, Field]] = {}
    narrowest: dict[str, int] = {}  # by field: the fewest fields of a row that has it
    for i, raw in enumerate(raws):
        of_row = list(fields_of(raw))
        for field in of_row:
            name = field.name
            if name == MARK:
                if is_mark(field.value):
                    continue
                name = OWN_MARK
            cells.setdefault(name, {})[i] = field
            narrowest[name] = min(len(of_row), narrowest.get(name, len(of_row)))
    notes = []
    if OWN_MARK in cells:
        notes.append(RENAMED)
    # The fields of one very wide row must not take the columns of other rows.
    by_rows = sorted(cells, key=lambda name: (-len(cells[name]), narrowest[name]))
    chosen = [name for name in by_rows if is_utf8(name)][:MOST_COLUMNS]
    columns: dict[str, tuple[pa.Field, Any]] = {}
    leaves, texts, changed = MOST_LEAVES, [], False
    for name in chosen:
        typed = _typed(cells[name], len(raws), leaves)
        if typed is None:
            typed, without = _as_text(raws, cells[name])
            changed |= without
            columns[name] = (pa.field(name, typed.type, metadata={_KIND: _JSON}), typed)
            texts.append(name)
        else:
            columns[name] = (pa.field(name, typed.type), typed)
        leaves -= _leaves(typed.type)
    ordered = [name for name in cells if name in columns]
    fields = [columns[name][0] for name in ordered]
    arrays = [columns[name][1] for name in ordered]
    if texts:
        shown = ", ".join(name[:40] for name in texts[:8]) + (", ..." if len(texts) > 8 else "")
        notes.append(f"columns of JSON text, for want of one type: {shown}")
    rest = [name for name in cells if name not in columns]
    if rest:
        name = PACKED
        while name in columns:
            name += "_"
        fields.append(pa.field(name, pa.string(), metadata={_KIND: _OBJECT}))
        packed, without = _packed(raws, cells, rest)
        arrays.append(packed)
        changed |= without
        notes.append(f"rare or unwritable fields that share the column {name} as JSON text")
    if changed:
        notes.append(NO_NUMBER)
    fields.append(pa.field(MARK, pa.infer_type(list(marks))))
    arrays.append(pa.array(list(marks), fields[-1].type))
    return pa.table(arrays, schema=pa.schema(fields)), notes


def table_to_rows(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a table from `rows_to_table`. JSON text is parsed."""
    kinds = {f.name: (f.metadata or {}).get(_KIND) for f in table.schema}
    for row in table.to_pylist():
        found: dict[str, Any] = {}
        for name, value in row.items():
            if kinds[name] is None or value is None:
                if kinds[name] != _OBJECT:
                    found[name] = value
            elif kinds[name] == _JSON:
                found[name] = loads(value)
            else:
                found |= loads(value)
        yield found


def _typed(cells: dict[int, Field], rows: int, leaves: int) -> Any:
    """The column with a Parquet type, or None where there is no such type."""
    values: list[Any] = [None] * rows
    for i, field in cells.items():
        if field.value is TOO_DEEP:
            return None
        values[i] = field.value
    try:
        kind = pa.infer_type(values)
        if _leaves(kind) > leaves or _has_empty_struct(kind) or _mixes_booleans(values, kind):
            return None
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, UnicodeError, RecursionError):
        return None


def _as_text(raws: Sequence[str], cells: dict[int, Field]) -> tuple[Any, bool]:
    """The column as JSON text, and whether NaN or Infinity became null. So does `_packed`."""
    values: list[str | None] = [None] * len(raws)
    changed = False
    for i, field in cells.items():
        if field.value is not None:
            values[i], without = as_json(raws[i][field.start : field.end])
            changed |= without
    return pa.array(values, pa.string()), changed


def _packed(
    raws: Sequence[str], cells: dict[str, dict[int, Field]], names: list[str]
) -> tuple[Any, bool]:
    parts: list[list[str]] = [[] for _ in raws]
    changed = False
    for name in names:
        for i, field in cells[name].items():
            text, without = as_json(raws[i][field.start : field.end])
            changed |= without
            parts[i].append(f"{json.dumps(name)}: {text}")
    texts = [f"{{{', '.join(p)}}}" if p else None for p in parts]
    return pa.array(texts, pa.string()), changed


def _mixes_booleans(values: list[Any], kind: pa.DataType) -> bool:
    """Whether booleans stand beside numbers: Arrow would make them numbers, too."""
    if pa.types.is_struct(kind):
        of = [v for v in values if v is not None]
        return any(_mixes_booleans([v.get(f.name) for v in of], f.type) for f in kind)
    if pa.types.is_list(kind):
        return _mixes_booleans([x for v in values if v is not None for x in v], kind.value_type)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return number and any(isinstance(v, bool) for v in values)


def _leaves(kind: pa.DataType) -> int:
    children = [kind.field(i).type for i in range(kind.num_fields)]
    return sum(map(_leaves, children)) or 1


def _has_empty_struct(kind: pa.DataType) -> bool:
    children = [kind.field(i).type for i in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not children) or any(map(_has_empty_struct, children))
