"""The lines of a text, or those that begin in a range of its bytes.

A line belongs to the range that holds its first byte. So whatever the ranges of a file, each line
is in one of them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from mads_ray.corpus.reading import raw_row
from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.filesystem import open_filesystem

BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20


def open_range(file: InputFile, start: int) -> io.BufferedReader:
    """Open a file without compression at the byte before `start`. Raises OSError."""
    fs, path = open_filesystem(file.path)
    source = fs.open_input_file(path)
    try:
        source.seek(max(0, start - 1))
        return io.BufferedReader(source, _CHUNK)
    except BaseException:
        source.close()
        raise


def skip_to_line(stream: io.BufferedReader, start: int, stop: int) -> int:
    """Skip the rest of a line that began before `start`; return where the next line begins.

    `stream` stands at the byte before `start`. Returns `stop` where no line begins before it; it
    reads no further, so a line of many ranges is not read once for each of them.
    """
    at = max(0, start - 1)
    while start and at < stop:
        part = stream.readline(min(_CHUNK, stop - at))
        if not part:
            return stop
        at += len(part)
        if part.endswith(b"\n"):
            break
    return at


def each_line(
    stream: io.BufferedReader, number: int = 0, size: int | None = None
) -> Iterator[tuple[int, bytes | None]]:
    """Yield (line number from 1, line without white space at its ends) of every line.

    A line beyond the largest size of a row is None. `number`: how many lines come before. `size`:
    lines that begin within so many bytes; the last of them is read to its end.
    """
    limit = raw_row.MAX_ROW_BYTES
    read = 0
    while (size is None or read < size) and (line := stream.readline(limit + 2)):
        number += 1
        read += len(line)
        if len(line.rstrip(b"\r\n")) > limit:
            while line and not line.endswith(b"\n"):  # skip the rest of the long line
                line = stream.readline(limit)
                read += len(line)
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        yield number, line.strip()
