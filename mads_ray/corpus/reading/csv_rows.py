"""Read rows of CSV and TSV. The first line names the columns. Values are text, or null if empty."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator

from mads_ray.corpus.reading import raw_row
from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.raw_row import RawRow, as_row
from mads_ray.corpus.reading.streams import open_text
from mads_ray.errors import BrokenFileError, RowError
from mads_ray.printable import as_utf8, is_utf8


def read_csv(file: InputFile) -> Iterator[RawRow]:
    """Rows of a .csv or .tsv file. Raises BrokenFileError for a header that cannot name columns."""
    csv.field_size_limit(max(csv.field_size_limit(), raw_row.MAX_ROW_BYTES))
    with open_text(file) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
        lines = _Lines(text, file.path)
        first = lines.first()
        # strict: otherwise text after a closing quote is joined to the cell, and changed.
        cells = csv.reader(lines, delimiter=_delimiter(file, first), strict=True)
        names: list[str] | None = None
        index = 0
        while True:
            lines.begin_row(index)
            try:
                row = next(cells, None)
                problem = ""
            except csv.Error as e:
                if lines.at_end:
                    raise BrokenFileError(
                        f"{file.path}: the cell that begins in or after line {lines.row_line} has "
                        "a quote that is never closed: the rest of the file is in it. Repair it "
                        "(where a quote is text, quote the cell and double the quote)",
                        index,
                    ) from e
                row, problem = [], str(e)
            if row is None:
                return
            if names is None:
                if problem:
                    raise BrokenFileError(f"{file.path}: its header is not CSV: {problem}")
                if row:
                    names = _names(file, row)
            elif problem:
                message = f"line {lines.row_line} is not CSV: {problem}"
                yield RawRow(index, lines.text(), error=RowError("invalid_csv", "", message))
                index += 1
            elif row:
                yield _row(index, lines.row_line, names, row)
                index += 1


class _Lines:
    """The lines of a file, and those of the current row. A row has a largest size."""

    def __init__(self, text: io.TextIOWrapper, path: str) -> None:
        self._text = text
        self._path = path
        self._read = 0
        self._ahead = ""
        self._row: list[str] = []
        self._size = 0
        self._index = 0
        self.row_line = 1
        self.at_end = False

    def first(self) -> str:
        self._ahead = self._text.readline(raw_row.MAX_ROW_BYTES + 1)
        return self._ahead

    def begin_row(self, index: int) -> None:
        self._row, self._size, self._index = [], 0, index
        self.row_line = self._read + 1

    def text(self) -> str:
        shown = "".join(self._row).rstrip("\r\n")
        return as_utf8(shown)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._ahead or self._text.readline(raw_row.MAX_ROW_BYTES + 1)
        self._ahead = ""
        if not line:
            self.at_end = True
            raise StopIteration
        self._read += 1
        self._size += len(line)
        self._row.append(line)
        if self._size > raw_row.MAX_ROW_BYTES:
            raise BrokenFileError(
                f"{self._path}: the row that begins in line {self.row_line} is longer than "
                f"{raw_row.MAX_ROW_BYTES >> 20} MiB; is a quote in it never closed? Repair it",
                self._index,
            )
        return line


def _delimiter(file: InputFile, header: str) -> str:
    """The delimiter. Spreadsheets in some countries use another one than a comma."""
    if file.format == "tsv":
        return "\t"
    return next((d for d in ",;\t" if d in header), ",")


def _names(file: InputFile, header: list[str]) -> list[str]:
    names = [name.strip() or f"column {i}" for i, name in enumerate(header, 1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BrokenFileError(
            f"{file.path}: its first line names the column {twice[0]!r} twice; the first line must "
            "name the columns"
        )
    return names


def _row(index: int, line: int, names: list[str], cells: list[str]) -> RawRow:
    if len(cells) != len(names):
        raw = as_utf8(json.dumps(cells, ensure_ascii=False))
        message = f"line {line} has {len(cells)} cells, the header names {len(names)}"
        return RawRow(index, raw, error=RowError("ragged_row", "", message))
    value = {name: cell or None for name, cell in zip(names, cells, strict=True)}
    row = as_row(index, value)
    if row.error is None:
        return row
    # Bytes that are not UTF-8 were read as halves of surrogate pairs.
    raw = as_utf8(json.dumps(value, ensure_ascii=False))
    bad = next(n for n, c in value.items() if c and not is_utf8(c))
    return RawRow(index, raw, error=RowError("invalid_unicode", bad, f"line {line} is not UTF-8"))
