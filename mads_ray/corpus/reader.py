"""Stream the rows of one file, each with its position, its raw JSON text, or what is wrong with it.

Memory is bounded by one row group or one row, never by the file.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mads_ray.corpus.files import InputFile, open_filesystem
from mads_ray.corpus.json_array import ArrayError, iterate_array
from mads_ray.errors import CorpusError, RowError

MAX_ROW_BYTES = 64 * 2**20
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True, slots=True)
class RawRow:
    """Row `index` (0-based, blank lines not counted) of a file.

    `raw` is the row as JSON text, for JSONL byte for byte what the file holds. `value` is what it
    parses to; where it does not, `error` says why.
    """

    index: int
    raw: str
    value: Any = None
    error: RowError | None = None


def read_rows(file: InputFile) -> Iterator[RawRow]:
    """Yield every row of a file. Raises CorpusError when the file itself cannot be read."""
    reader = {
        "json": _read_json,
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
        "dataset": _read_dataset,
    }[file.format]
    count = 0
    try:
        for row in reader(file):
            yield row
            count = row.index + 1
    except CorpusError:
        raise
    except (
        OSError,
        EOFError,
        pa.ArrowException,
        ArrayError,
        OverflowError,
        UnicodeDecodeError,
    ) as e:
        detail = str(e).strip().splitlines()[0][:300] if str(e).strip() else type(e).__name__
        raise CorpusError(
            f"{file.path}: unreadable after row {count}: {detail.rstrip('.')}. "
            "Repair or leave out this file; broken rows are tolerated, broken files are not."
        ) from e


def _open(file: InputFile) -> io.BufferedReader:
    fs, path = open_filesystem(file.path)
    stream = fs.open_input_stream(path, compression=file.compression)
    buffered = io.BufferedReader(stream, 1 << 20)
    encoding = _BOMS.get(buffered.peek(2)[:2])
    if encoding:
        raise CorpusError(f"{file.path}: this file is {encoding}; convert it to UTF-8")
    return buffered


def _read_jsonl(file: InputFile) -> Iterator[RawRow]:
    with _open(file) as stream:
        index = 0
        line_number = 0
        while line := stream.readline(MAX_ROW_BYTES + 2):
            line_number += 1
            if len(line.rstrip(b"\r\n")) > MAX_ROW_BYTES:
                while line and not line.endswith(b"\n"):  # skip the rest of the monster
                    line = stream.readline(MAX_ROW_BYTES)
                reason = f"line {line_number} is longer than {MAX_ROW_BYTES >> 20} MiB"
                yield RawRow(index, "", error=RowError("row_too_large", "", reason))
                index += 1
                continue
            if line_number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            line = line.strip()
            if line:
                yield _parse_line(index, line_number, line)
                index += 1


def _parse_line(index: int, line_number: int, line: bytes) -> RawRow:
    try:
        raw = line.decode("utf-8")
    except UnicodeDecodeError as e:
        shown = line.decode("utf-8", errors="replace")
        message = f"line {line_number} is not UTF-8 at byte {e.start}"
        return RawRow(index, shown, error=RowError("invalid_unicode", "", message))
    try:
        return RawRow(index, raw, json.loads(raw))
    except (ValueError, RecursionError) as e:  # a plain ValueError: an integer of 4300 digits
        where = f" (column {e.colno})" if isinstance(e, json.JSONDecodeError) else ""
        what = "nested too deeply" if isinstance(e, RecursionError) else getattr(e, "msg", str(e))
        message = f"line {line_number} is not JSON: {what}{where}"
        return RawRow(index, raw, error=RowError("invalid_json", "", message))


def _read_json(file: InputFile) -> Iterator[RawRow]:
    with _open(file) as stream:
        head = stream.peek(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
        if head.startswith(b"["):
            for index, value in enumerate(iterate_array(stream, MAX_ROW_BYTES)):
                yield _as_row(index, value)
            return
        if not head:
            return
        first_line = head.split(b"\n", 1)[0].strip()
        try:
            one_a_line = isinstance(json.loads(first_line), dict)
        except (ValueError, RecursionError):
            one_a_line = len(first_line) > (1 << 15)  # a first row too long to have been peeked at
        if not one_a_line:
            raise CorpusError(
                f"{file.path}: a .json file must hold an array of rows, or one row object a line"
            )
    yield from _read_jsonl(file)


def _read_parquet(file: InputFile) -> Iterator[RawRow]:
    fs, path = open_filesystem(file.path)
    index = 0
    with fs.open_input_file(path) as source, pq.ParquetFile(source) as parquet:
        for batch in parquet.iter_batches(batch_size=512):
            for value in batch.to_pylist():
                yield _as_row(index, value)
                index += 1


def _read_dataset(file: InputFile) -> Iterator[RawRow]:
    try:
        import datasets
    except ImportError as e:
        raise CorpusError(
            f"{file.path}: a datasets folder needs: pip install 'mads_ray[datasets]'"
        ) from e
    try:
        loaded = datasets.load_from_disk(file.path)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as e:
        raise CorpusError(f"{file.path}: not a datasets.save_to_disk folder: {e}") from e
    splits = loaded.values() if isinstance(loaded, datasets.DatasetDict) else [loaded]
    index = 0
    for split in splits:
        for value in split.with_format(None):  # a saved format would hide or convert fields
            yield _as_row(index, value)
            index += 1


def _as_row(index: int, value: Any) -> RawRow:
    try:
        raw = json.dumps(value, ensure_ascii=False, default=_plain)
        raw.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as e:
        return RawRow(index, "", error=RowError("not_json", "", f"row cannot be JSON: {e}"))
    return RawRow(index, raw, value)


def _plain(value: Any) -> Any:
    """JSON form of what Parquet has and JSON has not."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"values of type {type(value).__name__} have no JSON form")
