"""Values of one large JSON array, one at a time.

The standard library parses whole documents only. Streaming parsers were tried (ijson on yajl):
they refuse integers beyond 64 bits, turn half surrogate pairs into question marks, and a file of
opening brackets made one take all memory. So this walks the array with the standard decoder.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

_CHUNK = 1 << 20
_SPACE = " \t\r\n"


class ArrayError(ValueError):
    """The text is not one JSON array, or one of its values is larger than the limit."""


def iterate_array(stream: io.BufferedReader, max_value: int) -> Iterator[Any]:
    """Yield the values of a UTF-8 JSON array; holds one chunk and one value.

    Raises ArrayError at the first place where the array is broken, after the values before it.
    """
    window = _Window(io.TextIOWrapper(stream, "utf-8-sig", newline=""))
    if window.take() != "[":
        raise ArrayError("it does not start with [")
    if window.peek() == "]":
        window.take()
    else:
        while True:
            yield window.value(max_value)
            sign = window.take()
            if sign == "]":
                break
            if sign != ",":
                raise ArrayError("expected , or ] after a row" if sign else "the array has no end")
    if window.peek():
        raise ArrayError("text after the end of the array")


class _Window:
    """The part of the text between what was consumed and what was read."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._buffer = ""
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode

    def _more(self, size: int = _CHUNK) -> bool:
        new = self._text.read(size)
        self._buffer, self._at = self._buffer[self._at :] + new, 0
        return bool(new)

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def take(self) -> str:
        """Consume and return it."""
        sign = self.peek()
        self._at += len(sign)
        return sign

    def value(self, limit: int) -> Any:
        """Parse the next value, reading on (in doubling steps) until it is complete."""
        size = _CHUNK
        while True:
            self.peek()
            try:
                value, end = self._decode(self._buffer, self._at)
            except RecursionError as e:
                raise ArrayError("nested too deeply") from e
            except ValueError as e:
                problem = str(e)
            else:
                # At the end of the window 12 may be the beginning of 123.
                if end < len(self._buffer) or isinstance(value, dict | list | str):
                    self._at = end
                    return value
                problem = "the array has no end"
            if len(self._buffer) - self._at > limit:
                raise ArrayError(f"{problem} (within {limit >> 20} MiB)")
            if not self._more(size):
                raise ArrayError(problem)
            size *= 2
