"""Read a row by the names of its fields, and account for every field that is known.

What is said comes first (a list of turns, or a prompt), then the answer where there is none yet,
then what goes with them: passages, reasoning, history, system text, tools, media. A known field
that holds anything else ends in RowError: nothing that a trainer would see is passed over.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mads_ray.corpus.conversation import Conversation
from mads_ray.corpus.forms.draft import Draft
from mads_ray.corpus.forms.fields import (
    ANSWERS,
    CALLS,
    CONVERSATIONS,
    DESIRABLE,
    HISTORIES,
    KNOWN,
    MEDIA,
    PASSAGES,
    PROMPTS,
    REASONINGS,
    REJECTED,
    SYSTEMS,
    TOOLS,
    clean,
    compact,
    from_json,
    holds_something,
    is_empty,
    kind_of,
    said_at,
    turns_text,
)
from mads_ray.corpus.forms.parts import medium_reference, reasoning_at, unread
from mads_ray.corpus.forms.transcripts import transcript
from mads_ray.corpus.forms.turns import (
    looks_like_pairs,
    looks_like_turn,
    looks_like_turns,
)
from mads_ray.errors import RowError

_CHOSEN = ("chosen", "chosen_response", "preferred_output")
_ANY_USE = ("data", "turns")  # names that many sets have for something else
_NEVER_NUMBERS = frozenset((*CONVERSATIONS, *HISTORIES, *TOOLS, *CALLS, *SYSTEMS))
_SWITCHES = ("on", "off", "yes", "no", "true", "false")  # values of `reasoning` that are no text


@dataclass(frozen=True, slots=True)
class _Fields:
    """Fields of a row that hold something, by what they are; in each the preferred one first."""

    chats: tuple[str, ...]
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    passages: tuple[str, ...]
    systems: tuple[str, ...]
    histories: tuple[str, ...]
    tools: tuple[str, ...]
    calls: tuple[str, ...]
    reasonings: tuple[str, ...]
    media: tuple[str, ...]


@functools.lru_cache(maxsize=4096)
def _sorted(filled: tuple[str, ...]) -> _Fields:
    groups = (
        CONVERSATIONS,
        PROMPTS,
        ANSWERS,
        PASSAGES,
        SYSTEMS,
        HISTORIES,
        TOOLS,
        CALLS,
        REASONINGS,
        MEDIA,
    )
    return _Fields(*(tuple(n for n in group if n in filled) for group in groups))


def recognise(draft: Draft) -> str:
    """Read the draft's row; return the name of its schema. Raises RowError."""
    row = draft.row
    for name in DESIRABLE:
        if name in row:
            _refuse_undesirable(row, name)
    filled = tuple([n for n in row if n in KNOWN and holds_something(n, row[n])])
    fields = _sorted(filled)
    chat = next((n for n in fields.chats if _holds_turns(row, n, fields)), None)
    prompt = fields.prompts[0] if fields.prompts and chat is None else None
    _refuse_columns(row, fields)
    if chat is not None:
        draft.take_turns(row[chat], chat)
    elif prompt is not None:
        draft.take_prompt(turns_text(row[prompt]), prompt)
    answer = None
    if not draft.messages or draft.messages[-1].role != "assistant":
        answer = _take_answer(draft, fields, prompt)
    elif fields.answers:
        answer = _take_better_answer(draft, fields, prompt)
    if not draft.messages:
        raise _unknown(draft)
    for name in fields.passages:  # beside turns, a passage may be one of them
        if name in draft.read or (chat and _is_in_turns(draft, row[name])):
            continue
        if name != "options" or not isinstance(row[name], dict) or _are_texts(row[name].values()):
            draft.add_passage(row[name], name)
    for name in fields.calls:
        draft.add_calls(row[name], name)
    if fields.reasonings:
        _add_reasoning(draft, fields.reasonings[0])
    for name in fields.histories:
        if not (chat and _is_said(draft, name, row[name])):
            draft.take_history(row[name], name)
    for name in fields.systems[:1]:
        draft.add_system(row[name], name)
    for name in fields.tools[:1]:
        draft.add_tools(row[name], name)
    for name in fields.media:
        draft.media.append(medium_reference(row[name], name, name, draft.text_only))
        draft.read.append(name)
    for name in filled:
        if name not in draft.read:
            _account_for(draft, name, fields)
    first = chat or prompt
    return f"{first} + {answer}" if first and answer else first or answer or ""


def _refuse_columns(row: Mapping[str, Any], fields: _Fields) -> None:
    """A table written by its columns is no row, though each column is a list of texts."""
    for prompt in fields.prompts[:1]:
        asked = row[prompt]
        for answer in fields.answers[:1]:
            told = row[answer]
            if not (isinstance(asked, list) and isinstance(told, list)) or len(asked) < 2:
                continue
            if len(asked) == len(told) and _are_texts(asked) and _are_texts(told):
                what = f"fields {prompt!r} and {answer!r} hold {len(asked)} rows: write one a line"
                raise RowError("wrong_type", prompt, what)


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(v, str) for v in values)


def _is_in_turns(draft: Draft, value: Any) -> bool:
    """Whether turns hold all texts of a passage already."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return bool(texts) and _are_texts(texts) and all(map(draft.contains, texts))


def _refuse_undesirable(row: Mapping[str, Any], name: str) -> None:
    value = row[name]
    no = value is False or (isinstance(value, str) and value.strip().lower() == "false")
    if no and not row.keys().isdisjoint((*CONVERSATIONS, *ANSWERS)):
        raise RowError("undesirable", name, f"{name} is false: an answer to learn to avoid")


def _holds_turns(row: Mapping[str, Any], name: str, fields: _Fields) -> bool:
    """Whether a filled field is the conversation of its row."""
    value = row[name]
    if name in _ANY_USE:
        texts = isinstance(value, list) and all(isinstance(v, str) for v in value)
        turns = looks_like_turns(value) or looks_like_pairs(value)
        # A list of texts named turns may be questions only.
        return turns or (name == "data" and texts)
    # Text is no list of turns, nor is a switch. Beside a prompt, neither is the conversation.
    listed = isinstance(value, list | dict) or (isinstance(value, str) and bool(from_json(value)))
    return listed or not fields.prompts


def _take_better_answer(draft: Draft, fields: _Fields, prompt: str | None) -> str | None:
    """The answer beside turns that end in one: a chosen answer instead of another, an answer
    instead of a blank one, or the rest of one that the prompt began."""
    row, last = draft.row, draft.messages[-1]
    name = next((n for n in _CHOSEN if n in fields.answers), fields.answers[0])
    value = turns_text(row[name])
    chosen = name in _CHOSEN and any(n in row for n in REJECTED)
    blank = last.is_empty and not last.media
    if blank or (chosen and prompt is None and not _is_said(draft, name, value)):
        draft.messages.pop()
        if not blank:
            draft.others.append(f"not chosen: {Conversation((last,)).to_json()}")
        return _take_answer(draft, fields, prompt)
    if prompt is not None and isinstance(value, str) and not draft.says(value, "assistant"):
        draft.messages[-1] = last.with_content(last.content + clean(value, name))
        draft.read.append(name)
        return name
    return None


def _take_answer(draft: Draft, fields: _Fields, prompt: str | None) -> str | None:
    """Add the answer; return its field, None where there is none to add."""
    if not fields.answers:
        # A call may be all of the answer.
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
        if isinstance(value, list) and len(value) > 1:  # other answers to the same
            draft.others.append(f"{name}: {compact(value, name)}")
            value = value[0]
        draft.say("assistant", said_at(value, name), name)
    else:
        spoken = transcript(value) if isinstance(value, str) else None
        if spoken is None:
            return None  # an answer to nothing
        draft.take_transcript(spoken, name)
    return name


def _take_blank_answer(draft: Draft, prompt: str | None) -> str | None:
    """Turns may end in a question; beside a prompt there must be a field for the answer."""
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
    """An answer that does not begin with the assistant is the whole conversation again: what it
    says of the prompt is not said twice."""
    answer = draft.turns(value, name)
    draft.read.append(name)
    if answer[0].role != "assistant":
        said = {m.stripped() for m in answer}
        draft.messages = [m for m in draft.messages if m.stripped() not in said]
    draft.messages += answer


def _add_reasoning(draft: Draft, name: str) -> None:
    """Reasoning beside the turns belongs to the last answer."""
    last, value = draft.messages[-1], draft.row[name]
    if last.role != "assistant" or last.reasoning or _is_switch(value):
        return
    draft.messages[-1] = replace(last, reasoning=reasoning_at(value, name, draft.others))
    draft.read.append(name)


def _is_switch(value: Any) -> bool:
    """Whether a field `reasoning` only says if there is some."""
    if isinstance(value, str):
        return value.strip().lower() in _SWITCHES
    return isinstance(value, bool | int | float)


def _account_for(draft: Draft, name: str, fields: _Fields) -> None:
    """Raise RowError for a known field that holds something which no turn says."""
    value = draft.row[name]
    switch = isinstance(value, bool | int | float) and name in _NEVER_NUMBERS
    if name in REJECTED or switch or (name in REASONINGS and _is_switch(value)):
        draft.unread.append(name)
    elif _is_said(draft, name, value):
        draft.read.append(name)
    elif name in ANSWERS or name in _ANY_USE or _is_within(draft, value):
        draft.keep_beside(name)
    else:
        read = ", ".join(draft.read)
        raise unread(
            name, f"it is no part of what was read ({read}); --field says which fields to read"
        )


def _is_said(draft: Draft, name: str, value: Any) -> bool:
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
    if isinstance(value, list) and value and _are_texts(value):
        return all(map(draft.contains, value))
    if not isinstance(value, str):
        return False
    texts = (draft.row[n] for n in draft.read if n in PROMPTS and n in draft.row)
    return draft.contains(value) or any(
        isinstance(t, str) and len(t) > 8 and t.strip() in value for t in texts
    )


def _unknown(draft: Draft) -> RowError:
    known = next((n for n in draft.row if n in KNOWN), None)
    if known is not None and is_empty(draft.row[known]):
        value = draft.row[known]
        if value is None:  # tables merged from several schemas are full of nulls
            return RowError("wrong_type", known, f"field {known!r} is null")
        return RowError("empty", known, f"field {known!r} is empty")
    names = sorted(str(n)[:40] for n in list(draft.row)[:50])
    keys = ", ".join(names[:8]) or "none"
    return RowError(
        "unknown_schema",
        "",
        f"no messages, conversations, instruction, prompt or other known question (fields: {keys});"
        " name yours with --field prompt=... --field response=...",
    )
