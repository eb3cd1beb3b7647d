"""The rows that could not be read or captured: what `quarantine/` holds of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from mads_ray.errors import RowError
from mads_ray.printable import as_utf8, shortened
from mads_ray.storage import write_parquet

_PART_ROWS = 20_000
_RAW_SHOWN, _MESSAGE_SHOWN, _NAME_SHOWN = 2000, 1000, 200  # characters

QUARANTINE_SCHEMA = pa.schema(
    [
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("field", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("raw", pa.large_string()),
    ]
)


def quarantine_row(position: dict[str, Any], error: RowError, raw: str) -> dict[str, Any]:
    """A row of the quarantine: its position, its reason and its text, all cut short."""
    shown = raw if len(raw) <= _RAW_SHOWN else raw[:_RAW_SHOWN] + f"... ({len(raw)} characters)"
    return {
        **position,
        "field": as_utf8(shortened(error.field, _NAME_SHOWN)),
        "reason": error.reason,
        "message": as_utf8(shortened(error.message, _MESSAGE_SHOWN)),
        "raw": as_utf8(shown),
    }


class QuarantineParts:
    """Writes the rows of one piece of the input that go to quarantine, in parts of 20,000."""

    def __init__(self, folder: Path, name: str, file: str) -> None:
        self._folder, self._name, self._file = folder, name, file
        self._rows: list[dict[str, Any]] = []
        self._parts = 0

    def add(self, row: int, error: RowError, raw: str) -> None:
        """Add one row, by its number in the file."""
        position = {"source_file": self._file, "source_row": row}
        self._rows.append(quarantine_row(position, error, raw))
        if len(self._rows) >= _PART_ROWS:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            table = pa.Table.from_pylist(self._rows, QUARANTINE_SCHEMA)
            path = self._folder / f"part-ingest-{self._name}-{self._parts:05d}.parquet"
            write_parquet(path, table)
            self._parts += 1
        self._rows = []
