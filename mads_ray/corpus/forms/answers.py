"""Find the answer of a row: in a field, in turns, or as a better one than the last turn."""

from __future__ import annotations

from typing import Any

from mads_ray.corpus.conversation import Conversation
from mads_ray.corpus.forms.accounted import is_said
from mads_ray.corpus.forms.draft import Draft
from mads_ray.corpus.forms.fields import (
    ANSWERS,
    REJECTED,
    Filled,
    clean,
    compact,
    kind_of,
    said_at,
    turns_text,
)
from mads_ray.corpus.forms.transcripts import transcript
from mads_ray.corpus.forms.turns import (
    looks_like_turn,
    looks_like_turns,
)
from mads_ray.errors import RowError

_CHOSEN = ("chosen", "chosen_response", "preferred_output")


def take_better_answer(draft: Draft, fields: Filled, prompt: str | None) -> str | None:
    """Take the answer of a field where the turns end in an answer already; return the field.

    A chosen answer replaces another one, an answer replaces a blank one, and the rest of an answer
    is added to what the prompt began.
    """
    row, last = draft.row, draft.messages[-1]
    name = next((n for n in _CHOSEN if n in fields.answers), fields.answers[0])
    value = turns_text(row[name])
    chosen = name in _CHOSEN and any(n in row for n in REJECTED)
    blank = last.is_empty and not last.media
    if blank or (chosen and prompt is None and not is_said(draft, name, value)):
        draft.messages.pop()
        if not blank:
            draft.others.append(f"not chosen: {Conversation((last,)).to_json()}")
        return take_answer(draft, fields, prompt)
    if prompt is not None and isinstance(value, str) and not draft.says(value, "assistant"):
        draft.messages[-1] = last.with_content(last.content + clean(value, name))
        draft.read.append(name)
        return name
    return None


def take_answer(draft: Draft, fields: Filled, prompt: str | None) -> str | None:
    """Add the answer to the turns; return its field, or None where there is no answer."""
    if not fields.answers:
        # The answer may consist of a tool call only.
        return None if draft.messages and fields.calls else _take_blank_answer(draft, prompt)
    row = draft.row
    name = fields.answers[0]
    chosen = next((n for n in _CHOSEN if n in fields.answers), None)
    if chosen is not None and any(n in row for n in REJECTED):
        name = chosen
    elif prompt == "prompt" and "completion" in fields.answers:
        name = "completion"
    value = turns_text(row[name])
    if isinstance(value, str) and draft.messages:
        draft.say("assistant", clean(value, name), name)
    elif looks_like_turns(value) or looks_like_turn(value):
        _take_answer_turns(draft, value, name)
    elif draft.messages:
        if isinstance(value, list) and len(value) > 1:  # further answers to the same question
            draft.others.append(f"{name}: {compact(value, name)}")
            value = value[0]
        draft.say("assistant", said_at(value, name), name)
    else:
        spoken = transcript(value) if isinstance(value, str) else None
        if spoken is None:
            return None  # there is no question
        draft.take_transcript(spoken, name)
    return name


def _take_blank_answer(draft: Draft, prompt: str | None) -> str | None:
    """Take a blank answer. Turns need none, but a prompt must have a field for its answer."""
    row = draft.row
    if prompt is None or looks_like_turns(row[prompt]) or looks_like_turn(row[prompt]):
        return None
    usual = "completion" if prompt == "prompt" else "output"
    name = next((n for n in (usual, *ANSWERS) if n in row), None)
    if name is None:
        known = f"{', '.join(ANSWERS[:4])}, ...: docs/forms.md lists them"
        what = f"the row has no field {usual!r}, nor any other answer ({known})"
        raise RowError("missing_field", usual, what)
    if not isinstance(row[name], str):
        what = f"field {name!r} must be text, it is {kind_of(row[name])}"
        raise RowError("wrong_type", name, what)
    draft.say("assistant", clean(row[name], name), name)
    return name


def _take_answer_turns(draft: Draft, value: Any, name: str) -> None:
    """Add an answer that is a list of turns.

    Where it does not begin with the assistant it is the whole conversation, so turns that it
    repeats are removed.
    """
    answer = draft.turns(value, name)
    draft.read.append(name)
    if answer[0].role != "assistant":
        said = {m.stripped() for m in answer}
        draft.messages = [m for m in draft.messages if m.stripped() not in said]
    draft.messages += answer
