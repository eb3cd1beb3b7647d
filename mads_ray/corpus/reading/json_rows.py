"""Read rows of JSON lines and JSON files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pyarrow as pa

from mads_ray.corpus.reading import raw_row
from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.json_array import iterate_array, iterate_member, iterate_values
from mads_ray.corpus.reading.json_layout import LayoutError, layout_of
from mads_ray.corpus.reading.lines import BOM, each_line, open_range, skip_to_line
from mads_ray.corpus.reading.raw_row import RawRow, as_row
from mads_ray.corpus.reading.streams import open_text
from mads_ray.errors import BrokenFileError, RowError


def read_json(file: InputFile) -> Iterator[RawRow]:
    """Yield the rows of a .json or .jsonl file in any layout."""
    limit = raw_row.MAX_ROW_BYTES
    with open_text(file) as stream:
        if _plain_lines(stream.peek(1 << 16)):
            yield from _lines(stream)
            return
    with open_text(file) as stream:
        try:
            layout = layout_of(stream, file.format == "jsonl", limit)
        except LayoutError as e:
            raise BrokenFileError(f"{file.path}: {e}") from e
    with open_text(file) as stream:
        if layout.kind == "lines":
            yield from _lines(stream)
            return
        if layout.kind == "array":
            values = iterate_array(stream, limit)
        elif layout.kind == "values":
            values = iterate_values(stream, limit)
        else:
            values = iterate_member(stream, layout.member, limit)
        for index, value in enumerate(values):
            yield as_row(index, value)


def _plain_lines(head: bytes) -> bool:
    """Whether a file with this beginning has one row a line, as nearly all files have."""
    first, _, rest = head.removeprefix(BOM).lstrip().partition(b"\n")
    if not first.startswith(b"{") or not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def has_plain_lines(file: InputFile) -> bool:
    """Whether the beginning shows that each line is a row. Raises BrokenFileError for UTF-16."""
    with open_text(file) as stream:
        return _plain_lines(stream.peek(1 << 16))


def read_range(
    file: InputFile, start: int, stop: int, first_row: int = 0, first_line: int = 0
) -> Iterator[RawRow]:
    """Yield the rows of the lines that begin in a range of bytes of a file of plain lines.

    `first_row` and `first_line`: how many rows and lines come before it.
    """
    with open_range(file, start) as stream:
        size = stop - skip_to_line(stream, start, stop)
        yield from _lines(stream, first_row, first_line, size)


def read_chunk(path: str, first_row: int, first_line: int) -> Iterator[RawRow]:
    """Yield the rows of a chunk of lines that a compressed file was unpacked to."""
    with pa.input_stream(path, compression="zstd") as source, io.BufferedReader(source) as stream:
        yield from _lines(stream, first_row, first_line)


def _lines(
    stream: io.BufferedReader, index: int = 0, first_line: int = 0, size: int | None = None
) -> Iterator[RawRow]:
    for number, line in each_line(stream, first_line, size):
        if line:
            yield _parse_line(index, number, line)
        elif line is None:
            reason = f"line {number} is longer than {raw_row.MAX_ROW_BYTES >> 20} MiB"
            yield RawRow(index, "", error=RowError("row_too_large", "", reason))
        else:
            continue
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
    except (ValueError, RecursionError) as e:  # ValueError: also an integer of 4300 digits
        where = f" (column {e.colno})" if isinstance(e, json.JSONDecodeError) else ""
        what = "nested too deeply" if isinstance(e, RecursionError) else getattr(e, "msg", str(e))
        message = f"line {line_number} is not JSON: {what}{where}"
        return RawRow(index, raw, error=RowError("invalid_json", "", message))
