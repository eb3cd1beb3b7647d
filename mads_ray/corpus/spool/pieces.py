"""A piece of an input file: what one task reads. Small files are one piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.filesystem import Stamp
from mads_ray.corpus.reading.json_rows import read_chunk, read_range
from mads_ray.corpus.reading.raw_row import RawRow
from mads_ray.corpus.reading.reader import NOT_KEPT, read_rows, told, unchanged
from mads_ray.corpus.reading.table_rows import read_groups
from mads_ray.errors import BrokenFileError, ChangedFileError


@dataclass(frozen=True, slots=True)
class Piece:
    """Piece `number` of `count` of file number `index`.

    `kind` says what `start` and `stop` count: nothing (the whole file), bytes, row groups, or
    chunks that the file was unpacked to. `first_row` and `first_line`: how many rows and lines come
    before it. `rows`: how many rows it has, where that was counted.
    """

    index: int
    file: InputFile
    number: int = 0
    count: int = 1
    kind: str = "whole"  # whole, bytes, groups, chunk
    start: int = 0
    stop: int = 0
    first_row: int = 0
    first_line: int = 0
    rows: int | None = None

    @property
    def name(self) -> str:
        """How files made of this piece are called."""
        return f"{self.index:05d}-{self.number:05d}" if self.count > 1 else f"{self.index:05d}"

    def to_json(self) -> dict[str, Any]:
        """This piece as JSON."""
        return asdict(self)

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Piece:
        """Read what `to_json` returned."""
        return Piece(**{**stored, "file": InputFile(**stored["file"])})


def chunk_name(piece: Piece) -> str:
    """The file in the spool that holds the rows of a piece of kind "chunk"."""
    return f"chunk-{piece.index:05d}-{piece.start:05d}.jsonl.zst"


def read_piece(piece: Piece, spool: Path) -> Iterator[RawRow]:
    """Yield the rows of a piece of a file, as `read_rows` yields them. `spool` holds chunks.

    Raises the same errors. A file that has another number of rows here than when its pieces were
    counted has changed, too.
    """
    file, first, count = piece.file, piece.first_row, piece.first_row
    if piece.kind == "whole":
        yield from read_rows(file)
        return
    if piece.kind == "chunk":  # of the spool: where that cannot be read, the file is not broken
        unchanged(file, Stamp(file.size, file.mtime_ns), "since it was found")
        rows = read_chunk(str(spool / chunk_name(piece)), first, piece.first_line)
    elif piece.kind == "groups":
        rows = told(file, read_groups(file, piece.start, piece.stop, first), first)
    else:
        lines = read_range(file, piece.start, piece.stop, first, piece.first_line)
        rows = told(file, lines, first)
    try:
        for row in rows:
            yield row
            count = row.index + 1
    except BrokenFileError:
        for _ in read_rows(file):  # tells where it breaks, whichever piece was broken first
            pass
        raise
    if count - first != piece.rows:
        raise ChangedFileError(
            f"{file.path}: this file changed while it was read (it had {piece.rows:,} rows after "
            f"row {first:,} and has {count - first:,}), {NOT_KEPT}"
        )
