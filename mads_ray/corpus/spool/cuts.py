"""Cut a large file into pieces, so that several workers read it.

A quick pass over large files only finds where their pieces begin: bytes of a text file are counted
in ranges, a compressed one is unpacked to chunks, the footer of a Parquet file tells its row
groups. All that is slow, interpreting rows, is left to whoever reads the pieces. Where the pieces
are depends on the file alone. A file that is not laid out in the usual way stays whole.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from mads_ray.corpus.reading import raw_row
from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.filesystem import Stamp
from mads_ray.corpus.reading.json_rows import has_plain_lines
from mads_ray.corpus.reading.lines import BOM, each_line, open_range, skip_to_line
from mads_ray.corpus.reading.reader import BROKEN, unchanged
from mads_ray.corpus.reading.streams import open_text
from mads_ray.corpus.reading.table_rows import row_groups
from mads_ray.corpus.spool.pieces import Piece, chunk_name
from mads_ray.errors import ChangedFileError
from mads_ray.storage import write_json, write_whole
from mads_ray.stored.records import read_marker

_PIECE_BYTES = 256 * 2**20
_PACKED_BYTES = 64 * 2**20  # of a compressed file that is worth cutting


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of a part of a file. `start`, `stop`: as a `Piece` has them; its lines and rows."""

    start: int
    stop: int
    lines: int
    rows: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What is found in a part of a file. None: the file is read whole."""

    pieces: tuple[Stretch, ...] | None


def cuts_of(file: InputFile) -> int:
    """How many calls of `measure` a file needs, numbered from 0; none where it is one piece."""
    if file.format in ("jsonl", "json") and not file.compression:
        return -(-file.size // _PIECE_BYTES) if file.size > _PIECE_BYTES else 0
    return int(file.format in ("jsonl", "json", "parquet") and file.size > _PACKED_BYTES)


def measure(index: int, file: InputFile, cut: int, spool: Path) -> Cut:
    """Find the pieces of a part of a file; `cut` is its number. The answer stays in the spool.

    Raises ChangedFileError for a file that is not as it was when it was found.
    """
    found = stored_cut(spool, index, cut)
    if found is None:
        found = Cut(_measured(index, file, cut, spool))
        write_json(_marker(spool, index, cut), asdict(found))
    return found


def stored_cut(spool: Path, index: int, cut: int) -> Cut | None:
    """What `measure` found before, or None."""
    return read_marker(_marker(spool, index, cut), Cut)


def _marker(spool: Path, index: int, cut: int) -> Path:
    return spool / f"cut-{index:05d}-{cut:05d}.done.json"


def _measured(index: int, file: InputFile, cut: int, spool: Path) -> tuple[Stretch, ...] | None:
    opened = None
    try:
        opened = unchanged(file, Stamp(file.size, file.mtime_ns), "since it was found")
        found = _found(index, file, cut, spool)
    except ChangedFileError:
        raise
    except BROKEN:  # whoever reads it whole says what is wrong, and after which row
        if opened is not None:
            unchanged(file, opened, "while it was read")
        for chunk in spool.glob(f"chunk-{index:05d}-*"):
            chunk.unlink()
        return None
    unchanged(file, opened, "while it was read")
    return found


def _found(index: int, file: InputFile, cut: int, spool: Path) -> tuple[Stretch, ...] | None:
    if file.format == "parquet":
        return _groups(file)
    if cut == 0 and not has_plain_lines(file):
        return None
    if file.compression:
        return _unpacked(index, file, spool)
    start, stop = cut * _PIECE_BYTES, min((cut + 1) * _PIECE_BYTES, file.size)
    with open_range(file, start) as stream:
        size = stop - skip_to_line(stream, start, stop)
        lines = rows = 0
        for _, line in each_line(stream, min(start, 1), size):  # only the first may have a BOM
            lines += 1
            rows += line is None or bool(line)
    return (Stretch(start, stop, lines, rows),)


def _groups(file: InputFile) -> tuple[Stretch, ...]:
    found: list[Stretch] = []
    start = rows = nbytes = 0
    groups = row_groups(file)
    for i, (rows_of, bytes_of) in enumerate(groups, 1):
        rows, nbytes = rows + rows_of, nbytes + bytes_of
        if nbytes >= _PIECE_BYTES or i == len(groups):
            found.append(Stretch(start, i, 0, rows))
            start, rows, nbytes = i, 0, 0
    return tuple(found)


def _unpacked(index: int, file: InputFile, spool: Path) -> tuple[Stretch, ...]:
    """Write the lines of a compressed file to chunks of bounded size, and count them."""
    found: list[Stretch] = []
    before = 0
    with open_text(file) as stream:
        lines_of_file = each_line(stream)
        done = False
        while not done:
            counts = [before, 0]

            def write(temporary: Path, counts: list[int] = counts) -> None:
                nonlocal done
                done = True
                size = 0
                with pa.CompressedOutputStream(str(temporary), "zstd") as out:
                    out.write(b"" if found else BOM)  # its reader takes one off the first line
                    for counts[0], line in lines_of_file:
                        if line is None:  # its text is not read, so any of its length will do
                            line = b"x" * (raw_row.MAX_ROW_BYTES + 1)
                        counts[1] += bool(line)
                        out.write(line + b"\n")
                        size += len(line)
                        if size >= _PIECE_BYTES:
                            done = False
                            return

            number = len(found)
            write_whole(spool / chunk_name(Piece(index, file, start=number)), write)
            found.append(Stretch(number, number + 1, counts[0] - before, counts[1]))
            before = counts[0]
    return tuple(found)


def pieces_of(index: int, file: InputFile, cuts: list[Cut]) -> list[Piece]:
    """The pieces of a file, by the answers of its calls of `measure` in their order."""
    parts = [p for cut in cuts for p in cut.pieces or ()]
    if not parts or any(cut.pieces is None for cut in cuts):
        return [Piece(index, file)]
    kind = "groups" if file.format == "parquet" else "chunk" if file.compression else "bytes"
    line_of = list(accumulate((p.lines for p in parts), initial=0))
    row_of = list(accumulate((p.rows for p in parts), initial=0))
    return [
        Piece(index, file, i, len(parts), kind, p.start, p.stop, row_of[i], line_of[i], p.rows)
        for i, p in enumerate(parts)
    ]
