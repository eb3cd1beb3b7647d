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

# What is found of each piece: start, stop, lines and rows. None: the file is read whole.
Found = list[tuple[int, int, int, int]] | None


@dataclass(frozen=True, slots=True)
class _Stretch:
    start: int
    stop: int
    lines: int
    rows: int


@dataclass(frozen=True, slots=True)
class _StoredCut:
    """What the marker of a cut holds."""

    pieces: tuple[_Stretch, ...] | None


def cuts_of(file: InputFile) -> int:
    """How many calls of `measure` a file needs, numbered from 0; none where it is one piece."""
    if file.format in ("jsonl", "json") and not file.compression:
        return -(-file.size // _PIECE_BYTES) if file.size > _PIECE_BYTES else 0
    return int(file.format in ("jsonl", "json", "parquet") and file.size > _PACKED_BYTES)


def measure(index: int, file: InputFile, cut: int, spool: Path) -> Found:
    """Find the pieces of a part of a file; `cut` is its number. The answer stays in the spool.

    Raises ChangedFileError for a file that is not as it was when it was found.
    """
    marker = spool / f"cut-{index:05d}-{cut:05d}.done.json"
    stored = read_marker(marker, _StoredCut)
    if stored is not None:
        found = stored.pieces
        return None if found is None else [(p.start, p.stop, p.lines, p.rows) for p in found]
    measured = _measured(index, file, cut, spool)
    pieces = None if measured is None else tuple(_Stretch(*p) for p in measured)
    write_json(marker, asdict(_StoredCut(pieces)))
    return measured


def _measured(index: int, file: InputFile, cut: int, spool: Path) -> Found:
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


def _found(index: int, file: InputFile, cut: int, spool: Path) -> Found:
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
    return [(start, stop, lines, rows)]


def _groups(file: InputFile) -> Found:
    found, start, rows, nbytes = [], 0, 0, 0
    groups = row_groups(file)
    for i, (rows_of, bytes_of) in enumerate(groups, 1):
        rows, nbytes = rows + rows_of, nbytes + bytes_of
        if nbytes >= _PIECE_BYTES or i == len(groups):
            found.append((start, i, 0, rows))
            start, rows, nbytes = i, 0, 0
    return found


def _unpacked(index: int, file: InputFile, spool: Path) -> Found:
    """Write the lines of a compressed file to chunks of bounded size, and count them."""
    found: list[tuple[int, int, int, int]] = []
    with open_text(file) as stream:
        lines_of_file = each_line(stream)
        done = False
        while not done:
            before = found[-1][2] if found else 0
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
            found.append((number, number + 1, counts[0], counts[1]))
    lines = [0, *(f[2] for f in found)]
    return [(a, b, end - lines[i], rows) for i, (a, b, end, rows) in enumerate(found)]


def pieces_of(index: int, file: InputFile, measured: list[Found]) -> list[Piece]:
    """The pieces of a file, by the answers of its calls of `measure` in their order."""
    parts = [p for found in measured for p in found or ()]
    if not parts or any(found is None for found in measured):
        return [Piece(index, file)]
    kind = "groups" if file.format == "parquet" else "chunk" if file.compression else "bytes"
    line_of = list(accumulate((p[2] for p in parts), initial=0))
    row_of = list(accumulate((p[3] for p in parts), initial=0))
    return [
        Piece(index, file, i, len(parts), kind, start, stop, row_of[i], line_of[i], rows)
        for i, (start, stop, _, rows) in enumerate(parts)
    ]
