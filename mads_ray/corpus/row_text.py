"""A row as JSON text: its fields without parsing all of it, and the line it becomes in a core set.

Ingest has parsed each row once, so the text is JSON as Python reads it. It may still hold what
breaks other readers, or a second parse: NaN, a line break between tokens, values nested as deep as
the stack allows, half surrogate pairs. Here text stays text wherever it can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

MARK = "_mads"
OWN_MARK = "_mads_input"  # a row's own field of that name
DEEPEST = 32  # levels that become a value; Parquet, with two levels a list, has room for 100
TOO_DEEP = object()
# Notes for the person who runs it.
NO_NUMBER = "NaN or Infinity, which JSON has not, is null"
RENAMED = f"a field {MARK} that was not ours is now {OWN_MARK}"

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BRACKETS = re.compile(rf"{_STRING}|[\[\]{{}}]")
_NOT_JSON = re.compile(rf"{_STRING}|-?Infinity|NaN")
# The key may be spelled with escapes.
_MARKED = re.compile(
    r'"(?:_|\\u005f)(?:m|\\u006d)(?:a|\\u0061)(?:d|\\u0064)(?:s|\\u0073)"', re.IGNORECASE
)
# What some readers take for the end of a line. In strings JSON allows only the last three.
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
    """A field of a row: its name, where that and its value are in the text, and the value, or
    `TOO_DEEP`."""

    name: str
    at: int
    start: int
    end: int
    value: Any


def loads(text: str | bytes) -> Any:
    """Parse a row, also where this thread's stack has less room than ingest had."""
    try:
        return json.loads(text)
    except RecursionError:
        with ThreadPoolExecutor(1) as fresh:
            return fresh.submit(json.loads, text).result()


def fields_of(raw: str) -> Iterator[Field]:
    """The fields of a row in order, a repeated name each time; a list of turns is `messages`."""
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
    """The text as every JSON reader reads it, on one line, and whether NaN or Infinity, which JSON
    has not, became null in it. A harmless text comes back as it is."""
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
    """The row's own text with the field `_mads` more, and notes on what had to change.

    A `_mads` of an older core set is replaced; another field of that name becomes `_mads_input`.
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
    """Whether a core set was written with this value of `_mads`."""
    return isinstance(value, dict) and {"uid", "rank"} <= value.keys()


def depth(text: str) -> int:
    """Levels of lists and objects in a JSON text."""
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
    # Brackets are counted first: they are few in nearly all values.
    opened = raw.count("[", start, end) + raw.count("{", start, end)
    if opened > DEEPEST and depth(raw[start:end]) > DEEPEST:
        value = TOO_DEEP
    return Field(name, at, start, end, value)


def _end(raw: str, start: int) -> int:
    """Where the list or object that begins here ends."""
    level = 0
    for token in _BRACKETS.finditer(raw, start):
        if token[0] in ("[", "{"):
            level += 1
        elif token[0] in ("]", "}"):
            level -= 1
            if level == 0:
                return token.end()
    raise AssertionError("ingest took a text that is no JSON")
