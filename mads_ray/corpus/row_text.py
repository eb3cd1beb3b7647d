"""Work on a row as JSON text: find its fields without parsing all of it, and write its output line.

Ingest has parsed each row once, so the text is JSON as Python reads it. It may still hold what
other readers, or a second parse, cannot read: NaN, a line break between tokens, values nested as
deep as the stack allows, half surrogate pairs. So the text is parsed only where it must be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

MARK = "_mads"
OWN_MARK = "_mads_input"  # the new name of a row's own field `_mads`
DEEPEST = 32  # levels of a value that is parsed; Parquet takes 100, and a list needs two
TOO_DEEP = object()
# Notes for the user.
NO_NUMBER = "NaN or Infinity, which JSON has not, is null"
RENAMED = f"a field {MARK} that was not ours is now {OWN_MARK}"

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BRACKETS = re.compile(rf"{_STRING}|[\[\]{{}}]")
_NOT_JSON = re.compile(rf"{_STRING}|-?Infinity|NaN")
# The key may be written with escapes.
_MARKED = re.compile(
    r'"(?:_|\\u005f)(?:m|\\u006d)(?:a|\\u0061)(?:d|\\u0064)(?:s|\\u0073)"', re.IGNORECASE
)
# Some readers take these for the end of a line. JSON allows only the last three in strings.
_BREAKS = {
    0x0A: " ",
    0x0D: " ",
    0x85: "\\u0085",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_ANY_BREAK = re.compile(r"[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a row: its name, the places of name and value in the text, and the value.

    The value is `TOO_DEEP` where it has too many levels.
    """

    name: str
    at: int
    start: int
    end: int
    value: Any


def loads(text: str | bytes) -> Any:
    """Parse a row, also where this thread has less stack than ingest had."""
    try:
        return json.loads(text)
    except RecursionError:
        with ThreadPoolExecutor(1) as fresh:
            return fresh.submit(json.loads, text).result()


def fields_of(raw: str) -> Iterator[Field]:
    """Yield the fields of a row in order, also a repeated name. A list of turns is `messages`."""
    at = _skip(raw, 0)
    if raw[at] == "[":
        yield _field(raw, "messages", at, at)
        return
    at = _skip(raw, at + 1)
    while raw[at] != "}":
        name, end = _DECODER.raw_decode(raw, at)
        field = _field(raw, name, at, _skip(raw, _skip(raw, end) + 1))
        yield field
        at = _skip(raw, field.end)
        if raw[at] == ",":
            at = _skip(raw, at + 1)


def as_json(text: str) -> tuple[str, bool]:
    """The text on one line, as every JSON reader can read it.

    Also returns whether NaN or Infinity, which JSON does not know, became null. A text that needs
    no change comes back as it is.
    """
    changed = False

    def replaced(match: re.Match[str]) -> str:
        nonlocal changed
        if match[0][0] == '"':
            return match[0]
        changed = True
        return "null"

    if "NaN" in text or "Infinity" in text:
        text = _NOT_JSON.sub(replaced, text)
    return (text.translate(_BREAKS) if _ANY_BREAK.search(text) else text), changed


def marked_line(raw: str, mads: dict[str, Any]) -> tuple[str, list[str]]:
    """The row's own text with the added field `_mads`, and notes on what had to change.

    A `_mads` of an older core set is replaced. Another field of that name becomes `_mads_input`.
    """
    notes = []
    text, changed = as_json(raw.strip())
    if changed:
        notes.append(NO_NUMBER)
    if text[0] == "[":
        text = f'{{"messages": {text}}}'
    if _MARKED.search(text):
        text, renamed = _without_mark(text)
        if renamed:
            notes.append(RENAMED)
    addition, _ = as_json(json.dumps(mads, ensure_ascii=False))
    head = text[:-1].rstrip()
    return f'{head}{"" if head == "{" else ", "}"{MARK}": {addition}}}', notes


def is_mark(value: Any) -> bool:
    """Whether this value of `_mads` was written with a core set."""
    return isinstance(value, dict) and {"uid", "rank"} <= value.keys()


def depth(text: str) -> int:
    """How deep lists and objects are nested in a JSON text."""
    most = level = 0
    for token in _BRACKETS.finditer(text):
        if token[0] in ("[", "{"):
            level += 1
            most = max(most, level)
        elif token[0] in ("]", "}"):
            level -= 1
    return most


def _without_mark(text: str) -> tuple[str, bool]:
    fields = list(fields_of(text))
    if all(field.name != MARK for field in fields):
        return text, False  # in a value, or deeper
    renamed, parts = False, []
    for field in fields:
        if field.name != MARK:
            parts.append(text[field.at : field.end])
        elif not is_mark(field.value):
            renamed = True
            parts.append(f'"{OWN_MARK}": {text[field.start : field.end]}')
    return f"{{{', '.join(parts)}}}", renamed


def _skip(raw: str, at: int) -> int:
    space = _SPACE.match(raw, at)
    assert space is not None
    return space.end()


def _field(raw: str, name: str, at: int, start: int) -> Field:
    try:
        value, end = _DECODER.raw_decode(raw, start)
    except RecursionError:
        return Field(name, at, start, _end(raw, start), TOO_DEEP)
    # Counting brackets is cheap, and nearly all values have few.
    opened = raw.count("[", start, end) + raw.count("{", start, end)
    if opened > DEEPEST and depth(raw[start:end]) > DEEPEST:
        value = TOO_DEEP
    return Field(name, at, start, end, value)


def _end(raw: str, start: int) -> int:
    """The end of the list or object that begins at `start`."""
    level = 0
    for token in _BRACKETS.finditer(raw, start):
        if token[0] in ("[", "{"):
            level += 1
        elif token[0] in ("]", "}"):
            level -= 1
            if level == 0:
                return token.end()
    raise AssertionError("ingest took a text that is no JSON")
