"""Turn a row of any form into a conversation, and say how it was understood.

Each row is recognised by the names of its fields (`recognise.py`). A field map of the user says
instead which fields to read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mads_ray.corpus.conversation import Conversation
from mads_ray.corpus.forms.draft import Draft
from mads_ray.corpus.forms.fields import (
    KNOWN,
    clean,
    holds_something,
    is_empty,
    kind_of,
    lookup,
    required,
    said_at,
)
from mads_ray.corpus.forms.recognise import recognise
from mads_ray.corpus.forms.turns import looks_like_turn, looks_like_turns
from mads_ray.errors import RowError

_LABELS = ("task", "category", "dataset")
_MAX_LABEL = 200
BY_FIELD_MAP = "field map"


@dataclass(frozen=True, slots=True)
class Reading:
    """How a row was understood.

    `schema` names the fields that hold the turns. `read`: all fields that the conversation was made
    of. `unread`: known fields that were left out on purpose, such as the rejected answer of a pair.
    """

    conversation: Conversation
    schema: str
    read: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def read_row(row: Any, fields: Mapping[Any, str] | None = None, text_only: bool = False) -> Reading:
    """Return the conversation that a row holds, and how it was understood.

    `fields` maps messages, or prompt and response, and system, input, history or tools, to names of
    fields. `text_only` reads rows with images, audio or video without them. A response may be
    empty: the prompt alone activates neurons, too. Raises RowError for a row that cannot be read as
    a whole.
    """
    if looks_like_turns(row):  # the row is itself the list
        row = {"messages": row}
    if not isinstance(row, dict):
        raise RowError("not_an_object", "", f"a row must be an object, this is {kind_of(row)}")
    draft = Draft(row if fields else _in_small_letters(row), text_only)
    try:
        schema = _follow(draft, fields) if fields else recognise(draft)
    except RecursionError as e:
        raise RowError("wrong_type", "", "this row is nested too deeply to be read") from e
    return Reading(draft.conversation(), schema, tuple(draft.read), tuple(draft.unread))


@functools.lru_cache(maxsize=1024)
def _renamed(names: tuple[Any, ...]) -> dict[str, str]:
    """Map names with capitals to known names, unless the row has these too."""
    small: dict[str, str] = {}
    for name in names[:1000] if KNOWN.isdisjoint(names) or len(names) < 100 else ():
        if isinstance(name, str) and name not in KNOWN and name.lower() in KNOWN:
            small.setdefault(name.lower(), name)
    return {name: known for known, name in small.items() if known not in names}


def _in_small_letters(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with known names in small letters."""
    renamed = _renamed(tuple(row))
    return {renamed.get(k, k): v for k, v in row.items()} if renamed else row


def _follow(draft: Draft, fields: Mapping[Any, str]) -> str:
    """Read the fields of a map. Other fields count for the uid only."""
    if "messages" in fields:
        draft.take_turns(required(draft.row, fields["messages"]), fields["messages"])
    elif "prompt" in fields and "response" in fields:
        draft.take_prompt(required(draft.row, fields["prompt"]), fields["prompt"])
        name = fields["response"]
        value = required(draft.row, name)
        if looks_like_turns(value) or looks_like_turn(value):
            draft.take_turns(value, name)
        else:
            draft.say("assistant", said_at(value, name), name)
    else:
        raise RowError("bad_field_map", "", "a field map names messages, or prompt and response")
    beside = {
        "input": draft.add_passage,
        "history": draft.take_history,
        "system": draft.add_system,
        "tools": draft.add_tools,
    }
    for part, add in beside.items():
        value = lookup(draft.row, fields[part]) if part in fields else None
        if not is_empty(value):
            add(value, fields[part])
    tops = {name.split(".")[0] for name in draft.read}
    for name, value in draft.row.items():
        if name in KNOWN - tops and name not in draft.read and holds_something(name, value):
            draft.keep_beside(name)
    return BY_FIELD_MAP


def label_of(row: Any, field: str | None) -> str | None:
    """The task label of a row, for the report. The selection never uses it."""
    if not isinstance(row, dict):
        return None
    for name in (field,) if field else _LABELS:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return clean(str(value), name)[:_MAX_LABEL]
    return None
