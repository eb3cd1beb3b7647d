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
_BROKEN = (
    *(OSError, EOFError, ValueError, KeyError, OverflowError),
    *(pa.ArrowException, lzma.LZMAError),
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
    reader = _READERS[file.format]
    count = 0
    opened = None
    try:
        opened = _unchanged(file, Stamp(file.size, file.mtime_ns), "since it was found")
        if file.compression and not file.size:
            raise EOFError(f"0 bytes are no {file.compression} file")
        for row in reader(file):
            yield row
            count = row.index + 1
    except _BROKEN as e:
        if opened is not None:
            _unchanged(file, opened, "while it was read")
        if isinstance(e, CorpusError):
            raise
        raise BrokenFileError(
            f"{file.path}: unreadable after row {count}: {reason_of(e, 300).rstrip('.')}. "
            "Repair or leave out this file; broken rows are tolerated, broken files are not.",
            count,
        ) from e
    _unchanged(file, opened, "while it was read")


def _unchanged(file: InputFile, before: Stamp, when: str) -> Stamp:
    try:
        now = stamp_of(file.path)
    except FileNotFoundError:
        if when.startswith("since"):
            raise
        now, change = before, "it is gone"
    else:
        change = before.changes(now)
    if change:
        raise ChangedFileError(
            f"{file.path}: this file changed {when} ({change}), so what was read of it is not kept."
            " Wait until nothing writes to it, or copy it, and run the same command again"
        )
    return now
