"""Account for every known field: turns say it, it is kept beside them, or the row is refused."""

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

ANY_USE = ("data", "turns")  # many data sets use these names for other things
_NEVER_NUMBERS = frozenset((*CONVERSATIONS, *HISTORIES, *TOOLS, *CALLS, *SYSTEMS))
_SWITCHES = ("on", "off", "yes", "no", "true", "false")  # values of `reasoning`


def account_for(draft: Draft, name: str) -> None:
    """Note a known field as read, unread or kept beside; raise RowError where it would be lost."""
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
    """Whether the turns that were read say all that a field holds, in the role that it names."""
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
    """Whether a text is part of a turn, or holds a prompt that was read.

    A question may stand within a longer prompt, and a longer prompt may be made of fields that were
    read.
    """
    if isinstance(value, list) and value and are_texts(value):
        return all(map(draft.contains, value))
    if not isinstance(value, str):
        return False
    texts = (draft.row[n] for n in draft.read if n in PROMPTS and n in draft.row)
    return draft.contains(value) or any(
        isinstance(t, str) and len(t) > 8 and t.strip() in value for t in texts
    )


def is_switch(value: Any) -> bool:
    """Whether a field of reasoning says only if there is some."""
    if isinstance(value, str):
        return value.strip().lower() in _SWITCHES
    return isinstance(value, bool | int | float)


def are_texts(values: Iterable[Any]) -> bool:
    """Whether all of them are text."""
    return all(isinstance(v, str) for v in values)
