"""Stream the rows of one file, each with its position and its raw JSON text or its error.

Memory holds one row group or one row, never the whole file.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator

import pyarrow as pa

from mads_ray.corpus.reading.csv_rows import read_csv
from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.filesystem import Stamp, stamp_of
from mads_ray.corpus.reading.json_rows import read_json
from mads_ray.corpus.reading.raw_row import MAX_ROW_BYTES, RawRow
from mads_ray.corpus.reading.table_rows import read_arrow, read_dataset, read_parquet
from mads_ray.errors import BrokenFileError, ChangedFileError, CorpusError, reason_of

__all__ = ["MAX_ROW_BYTES", "RawRow", "read_rows"]

# KeyError: an unknown time zone
BROKEN = (
    *(OSError, EOFError, ValueError, KeyError, OverflowError),
    *(pa.ArrowException, lzma.LZMAError),
)
NOT_KEPT = (
    "so what was read of it is not kept. Wait until nothing writes to it, or copy it, and run the "
    "same command again"
)
_READERS = {
    "json": read_json,
    "jsonl": read_json,
    "csv": read_csv,
    "tsv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "dataset": read_dataset,
}


def read_rows(file: InputFile) -> Iterator[RawRow]:
    """Yield every row of a file.

    Raises BrokenFileError when the file itself cannot be read, and ChangedFileError when it changed
    since it was found or while it was read.
    """
    yield from told(file, _READERS[file.format](file), 0)


def told(file: InputFile, rows: Iterator[RawRow], count: int) -> Iterator[RawRow]:
    """Yield rows of a file; say after which row it broke. `count`: the rows before these."""
    opened = None
    try:
        opened = unchanged(file, Stamp(file.size, file.mtime_ns), "since it was found")
        if file.compression and not file.size:
            raise EOFError(f"0 bytes are no {file.compression} file")
        for row in rows:
            yield row
            count = row.index + 1
    except BROKEN as e:
        if opened is not None:
            unchanged(file, opened, "while it was read")
        if isinstance(e, CorpusError):
            raise
        raise BrokenFileError(
            f"{file.path}: unreadable after row {count}: {reason_of(e, 300).rstrip('.')}. "
            "Repair or leave out this file; broken rows are tolerated, broken files are not.",
            count,
        ) from e
    unchanged(file, opened, "while it was read")


def unchanged(file: InputFile, before: Stamp, when: str) -> Stamp:
    """The present state of a file. Raises ChangedFileError unless it is the one before."""
    try:
        now = stamp_of(file.path)
    except FileNotFoundError:
        if when.startswith("since"):
            raise
        now, change = before, "it is gone"
    else:
        change = before.changes(now)
    if change:
        raise ChangedFileError(f"{file.path}: this file changed {when} ({change}), {NOT_KEPT}")
    return now
