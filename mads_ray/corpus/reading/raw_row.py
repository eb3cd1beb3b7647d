"""One row as the file holds it, before it is understood."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
from dataclasses import dataclass
from typing import Any

from mads_ray.errors import RowError

MAX_ROW_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class RawRow:
    """Row `index` (0-based, blank lines not counted) of a file.

    `raw` is the row as JSON text; in JSONL it is exactly the text of the file. `value` is the
    parsed row. Where it cannot be parsed, `error` says why.
    """

    index: int
    raw: str
    value: Any = None
    error: RowError | None = None


def as_row(index: int, value: Any) -> RawRow:
    """Make a row of a value from a file that is not JSON lines."""
    try:
        raw = json.dumps(value, ensure_ascii=False, default=_plain)
        raw.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as e:
        return RawRow(index, "", error=RowError("not_json", "", f"row cannot be JSON: {e}"))
    return RawRow(index, raw, value)


def _plain(value: Any) -> Any:
    """The JSON form of a value that Parquet has and JSON does not."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"values of type {type(value).__name__} have no JSON form")
