"""Find how a JSON file stores its rows: one a line, in an array, one after another, in one object.

The beginning of the file shows it, so only the first value is read. Only one large object is read
to its end (value by value), because its keys may come in any order.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

from mads_ray.corpus.forms import fields
from mads_ray.corpus.forms.turns import looks_like_turn
from mads_ray.corpus.reading.json_array import ArrayError, Window, elements, members, skip

_SAID = {"content", "value", "text", "parts", "refusal", *fields.CALLS, *fields.REASONINGS}
# Lists under these names are the turns of one row. `data` may also be the rows.
_CONVERSATIONS = {*fields.CONVERSATIONS, *fields.HISTORIES, "chosen", "rejected", "prompt"} | {
    "completion"
}
_CONVERSATIONS -= {"data", "contents"}
# Text under these names is part of one row.
_TEXTS = {*fields.PROMPTS, *fields.ANSWERS, *fields.SYSTEMS, *fields.CONVERSATIONS} - {"data"}
_OF_A_ROW = {*fields.TOOLS, *fields.CALLS, *fields.MEDIA, *fields.PASSAGES}
# Lists under these names hold rows, also rows of unknown fields.
_HOLDERS = {"data", "instances", "rows", "examples", "items", "records", "samples", "train"}


@dataclass(frozen=True, slots=True)
class Layout:
    """`member` is the name of the list in the one object."""

    kind: Literal["lines", "array", "values", "member"]
    member: str = ""


class LayoutError(ValueError):
    """The content of the file cannot be read as rows. The message says what it is."""


def layout_of(stream: io.BufferedReader, json_lines: bool, limit: int) -> Layout:
    """Find the layout of a file by its text. `json_lines`: by its name, each line is a row.

    Raises LayoutError for text of another layout. A file of JSON lines may hold broken lines, so
    there such text counts as lines.
    """
    window = Window(stream, "surrogateescape")
    sign = window.peek()
    window.mark()
    try:
        if sign == "[":
            return _of_array(window, json_lines, limit)
        if sign == "{":
            return _of_object(window, json_lines, limit)
        problem = ""
    except ArrayError as e:
        if sign == "[" and not json_lines:
            return Layout("array")  # its reader says after which row the array is broken
        problem = f"; this one is no JSON: {e}"
    if json_lines or not sign:
        return Layout("lines")
    raise LayoutError(
        "a .json file must hold an array of rows, or one row object a line, or an object with one "
        f"list of rows{problem}"
    )


def _of_array(window: Window, json_lines: bool, limit: int) -> Layout:
    values = elements(window, limit)
    first = next(values, None)
    inner = first[0] if isinstance(first, list) and first else None
    if (isinstance(first, dict) and not _is_turn(first)) or _is_turn(inner):
        return Layout("array")
    for _ in values:
        pass
    one_line = not window.has_newline()
    follows = window.peek()
    if _is_turn(first):  # a message list is one row
        return Layout("lines" if one_line else "values")
    if one_line and (follows in ("[", "{") or (json_lines and isinstance(first, str))):
        # A line "[1] [2]" is broken in every layout.
        return Layout("lines" if window.has_newline() or not follows else "array")
    return Layout("array")


def _of_object(window: Window, json_lines: bool, limit: int) -> Layout:
    lists: list[str] = []
    is_row = False
    for key in members(window, limit):
        if window.peek() == "[":
            values = elements(window, limit)
            first = next(values, None)
            for _ in values:
                pass
            if _are_rows(key, first):
                lists.append(key)
            elif key in _CONVERSATIONS:
                is_row = True
        elif key in _TEXTS:
            is_row = isinstance(window.value(limit), str) or is_row
        else:
            skip(window, limit)
    one_line = not window.has_newline()
    window.mark()
    follows = window.peek()
    if follows:
        line_ends = one_line and window.has_newline()
        if line_ends or follows not in "{[":
            if json_lines or line_ends:
                return Layout("lines")
            raise ArrayError("text after the end of the object")
        if json_lines and one_line:
            return Layout("lines")  # a line "{} {}" is one broken row
        return Layout("values")
    if len(lists) > 1 and not is_row:
        names = " and ".join(map(repr, lists))
        raise LayoutError(
            f"it is one object with several lists of objects: {names}. Write the list that holds "
            "the rows to a file of its own"
        )
    if lists and not is_row:
        return Layout("member", lists[0])
    return Layout("lines" if one_line else "values")


def _is_turn(value: Any) -> bool:
    """Whether a value is a message, not a row: it has a role, and no field of a row."""
    if not looks_like_turn(value) or (_CONVERSATIONS | _TEXTS) & value.keys():
        return False
    return not _SAID.isdisjoint(value)


def _are_rows(key: str, first: Any) -> bool:
    """Whether a list with this key and this first value is a list of rows."""
    if isinstance(first, list):  # message lists
        return key not in _CONVERSATIONS and bool(first) and _is_turn(first[0])
    if not isinstance(first, dict) or _is_turn(first) or key in _OF_A_ROW:
        return False
    if key in _CONVERSATIONS:  # turns may be {"human": ..., "assistant": ...}
        return bool(_CONVERSATIONS & {k for k, v in first.items() if isinstance(v, list)})
    if key in _HOLDERS:
        return not {"content", "value"} & first.keys()
    return bool((_TEXTS | _CONVERSATIONS) & first.keys())
