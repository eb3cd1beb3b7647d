"""The bytes of one text file, decompressed."""

from __future__ import annotations

import bz2
import io
import lzma
from collections.abc import Callable
from typing import Any

from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.filesystem import open_filesystem
from mads_ray.errors import BrokenFileError

_CHUNK = 1 << 20
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


def open_text(file: InputFile) -> io.BufferedReader:
    """Open a file of UTF-8 text. Raises BrokenFileError for UTF-16, OSError."""
    fs, path = open_filesystem(file.path)
    if file.compression in _DECOMPRESSORS:
        raw = fs.open_input_stream(path, compression=None)  # the name of the file does not decide
        stream: Any = _Decompressed(raw, _DECOMPRESSORS[file.compression])
    else:
        stream = fs.open_input_stream(path, compression=file.compression)
    buffered = io.BufferedReader(stream, _CHUNK)
    try:
        head = buffered.peek(2)[:2]
        encoding = _BOMS.get(head, "UTF-16, or no text" if b"\0" in head else "")
        if encoding:
            raise BrokenFileError(f"{file.path}: this file is {encoding}; convert it to UTF-8")
    except BaseException:
        buffered.close()
        raise
    return buffered


class _Decompressed(io.RawIOBase):
    """Streams of bz2 or xz, one after another.

    Not `bz2.open`: it takes a damaged start of a later stream for the end of the file.
    """

    def __init__(self, source: Any, new: Callable[[], Any]) -> None:
        self._source = source
        self._new = new
        self._decompressor = new()
        self._fresh = True  # no byte of this stream was read
        self._streams = 0
        self._rest = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Close this and the file."""
        self._source.close()
        super().close()

    def readinto(self, target: Any) -> int:
        """Read into `target`. Raises EOFError where the file ends within a stream."""
        while True:
            if self._decompressor.eof:
                self._rest = self._decompressor.unused_data
                self._decompressor, self._fresh = self._new(), True
            data = b""
            if self._fresh or self._decompressor.needs_input:
                data = self._more()
                if not data and self._fresh and self._streams:
                    return 0
                if not data:
                    raise EOFError("Truncated compressed stream")
                self._streams += self._fresh
                self._fresh = False
            out = self._decompressor.decompress(data, len(target))
            if out:
                target[: len(out)] = out
                return len(out)

    def _more(self) -> bytes:
        """The next bytes. There may be padding between two streams of xz."""
        while data := self._rest or self._source.read(_CHUNK):
            self._rest = b""
            data = data.lstrip(b"\0") if self._fresh and self._streams else data
            if data:
                return bytes(data)
        return b""
