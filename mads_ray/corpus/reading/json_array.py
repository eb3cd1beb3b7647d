"""Read values of a large JSON text one at a time: of an array, of a list in an object, in a row.

The standard library parses whole documents only. A streaming parser was tried (ijson on yajl): it
refuses integers beyond 64 bits, turns half surrogate pairs into question marks, and took all memory
for a file of opening brackets. So this module walks through the text with the standard decoder.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

_CHUNK = 1 << 20
_SPACE = " \t\r\n"


class ArrayError(ValueError):
    """The text is not the JSON that it should be, or one of its values is larger than the limit."""


def iterate_array(stream: io.BufferedReader, max_value: int) -> Iterator[Any]:
    """Yield the values of one or more JSON arrays in UTF-8.

    Memory holds one chunk and one value. Raises ArrayError where the array is broken, after it has
    yielded the values before that place.
    """
    window = Window(stream)
    yield from elements(window, max_value)
    while sign := window.peek():
        if sign != "[":
            raise ArrayError("text after the end of the array")
        yield from elements(window, max_value)


def iterate_values(stream: io.BufferedReader, max_value: int) -> Iterator[Any]:
    """Yield JSON values that have only white space between them."""
    window = Window(stream)
    while window.peek():
        yield window.value(max_value)


def iterate_member(stream: io.BufferedReader, name: str, max_value: int) -> Iterator[Any]:
    """Yield the values of the list `name`. The text is one object."""
    window = Window(stream)
    for key in members(window, max_value):
        if key == name and window.peek() == "[":
            yield from elements(window, max_value)
        else:
            skip(window, max_value)
    if window.peek():
        raise ArrayError("text after the end of the object")


def elements(window: Window, max_value: int) -> Iterator[Any]:
    """Yield the values of the array that comes next."""
    if window.take() != "[":
        raise ArrayError("it does not start with [")
    if window.peek() == "]":
        window.take()
        return
    while True:
        yield window.value(max_value)
        sign = window.take()
        if sign == "]":
            return
        if sign != ",":
            raise ArrayError("expected , or ] after a row" if sign else "the array has no end")


def members(window: Window, max_value: int) -> Iterator[str]:
    """Yield the keys of the object that comes next. The caller takes the value after each key."""
    window.take()
    if window.peek() == "}":
        window.take()
        return
    while True:
        key = window.value(max_value)
        if not isinstance(key, str) or window.take() != ":":
            raise ArrayError("expected a key and : in an object")
        yield key
        sign = window.take()
        if sign == "}":
            return
        if sign != ",":
            raise ArrayError("expected , or } in an object" if sign else "the object has no end")


def skip(window: Window, max_value: int) -> None:
    """Skip the value that comes next. A list is skipped value by value."""
    if window.peek() == "[":
        for _ in elements(window, max_value):
            pass
    else:
        window.value(max_value)


class Window:
    """The part of the text that was read and not consumed yet."""

    def __init__(self, stream: io.BufferedReader, errors: str = "strict") -> None:
        self._text = io.TextIOWrapper(stream, "utf-8-sig", errors, newline="")
        self._buffer = ""
        self._at = 0
        self._mark = 0
        self._newline = False
        self._decode = json.JSONDecoder().raw_decode

    def _more(self, size: int) -> bool:
        new = self._text.read(size)
        self._newline = self.has_newline()
        self._buffer, self._at, self._mark = self._buffer[self._at :] + new, 0, 0
        return bool(new)

    def mark(self) -> None:
        """`has_newline` looks at the text from here on."""
        self._mark, self._newline = self._at, False

    def has_newline(self) -> bool:
        """Whether what was consumed since the mark holds a line feed."""
        return self._newline or self._buffer.find("\n", self._mark, self._at) >= 0

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._buffer) or not self._more(_CHUNK):
                return self._buffer[self._at : self._at + 1]

    def take(self) -> str:
        """Consume that character and return it."""
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
                # At the end of the window, 12 may be the start of 123.
                if end < len(self._buffer) or isinstance(value, dict | list | str):
                    self._at = end
                    return value
                problem = "the text has no end"
            if len(self._buffer) - self._at > limit:
                raise ArrayError(f"{problem} (within {limit >> 20} MiB)")
            if not self._more(size):
                raise ArrayError(problem)
            size *= 2
