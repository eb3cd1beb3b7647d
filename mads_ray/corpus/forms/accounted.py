"""Account for every known field: the turns say it, it stands beside them, or the row is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mads_ray.corpus.forms.draft import Draft
from mads_ray.corpus.forms.fields import (
    ANSWERS,
    CALLS,
    CONVERSATIONS,
    HISTORIES,
    PROMPTS,
    REASONINGS,
    REJECTED,
    SYSTEMS,
    TOOLS,
    compact,
    from_json,
)
from mads_ray.corpus.forms.parts import unread
from mads_ray.corpus.forms.turns import (
    looks_like_pairs,
    looks_like_turn,
    looks_like_turns,
)

ANY_USE = ("data", "turns")  # names that many sets have for something else
_NEVER_NUMBERS = frozenset((*CONVERSATIONS, *HISTORIES, *TOOLS, *CALLS, *SYSTEMS))
_SWITCHES = ("on", "off", "yes", "no", "true", "false")  # values of `reasoning` that are no text


def account_for(draft: Draft, name: str) -> None:
    """Raise RowError for a known field that holds something which no turn says."""
    value = draft.row[name]
    switch = isinstance(value, bool | int | float) and name in _NEVER_NUMBERS
    if name in REJECTED or switch or (name in REASONINGS and is_switch(value)):
        draft.unread.append(name)
    elif is_said(draft, name, value):
        draft.read.append(name)
    elif name in ANSWERS or name in ANY_USE or _is_within(draft, value):
        draft.keep_beside(name)
    else:
        read = ", ".join(draft.read)
        raise unread(
            name, f"it is no part of what was read ({read}); --field says which fields to read"
        )


def is_said(draft: Draft, name: str, value: Any) -> bool:
    """Whether turns that were read say all of a field, each as what the field says it is."""
    parsed = from_json(value) if isinstance(value, str) else value
    if looks_like_turns(parsed) or looks_like_turn(parsed) or looks_like_pairs(parsed):
        return draft.holds(parsed, name)
    if name in TOOLS:
        return compact(parsed, name) == draft.tools
    if isinstance(value, bool | int | float):
        value = compact(value, name)
    if not isinstance(value, str):
        return False
    if name in REASONINGS:
        return draft.reasons(value)
    role = "assistant" if name in ANSWERS else "system" if name in SYSTEMS else "user"
    return draft.says(value, role)


def _is_within(draft: Draft, value: Any) -> bool:
    """Whether text is a part of a turn, as a question within a longer prompt is, or a longer
    prompt made of the fields that were read."""
    if isinstance(value, list) and value and are_texts(value):
        return all(map(draft.contains, value))
    if not isinstance(value, str):
        return False
    texts = (draft.row[n] for n in draft.read if n in PROMPTS and n in draft.row)
    return draft.contains(value) or any(
        isinstance(t, str) and len(t) > 8 and t.strip() in value for t in texts
    )


def is_switch(value: Any) -> bool:
    """Whether a field `reasoning` only says if there is some."""
    if isinstance(value, str):
        return value.strip().lower() in _SWITCHES
    return isinstance(value, bool | int | float)


def are_texts(values: Iterable[Any]) -> bool:
    """Whether all of them are text."""
    return all(isinstance(v, str) for v in values)
