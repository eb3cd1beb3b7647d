"""Read a row by the names of its fields, and account for every field that is known.

First come the turns (a list of turns, or a prompt), then the answer where there is none yet, then
passages, reasoning, history, system text, tools and media. A known field that holds anything else
ends in RowError, so that nothing that a trainer would see is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mads_ray.corpus.forms.accounted import ANY_USE, account_for, are_texts, is_said, is_switch
from mads_ray.corpus.forms.answers import take_answer, take_better_answer
from mads_ray.corpus.forms.draft import Draft
from mads_ray.corpus.forms.fields import (
    ANSWERS,
    CONVERSATIONS,
    DESIRABLE,
    KNOWN,
    Filled,
    from_json,
    holds_something,
    is_empty,
    sorted_out,
    turns_text,
)
from mads_ray.corpus.forms.parts import medium_reference, reasoning_at
from mads_ray.corpus.forms.turns import (
    looks_like_pairs,
    looks_like_turns,
)
from mads_ray.errors import RowError


def recognise(draft: Draft) -> str:
    """Read the draft's row; return the name of its schema. Raises RowError."""
    row = draft.row
    for name in DESIRABLE:
        if name in row:
            _refuse_undesirable(row, name)
    filled = tuple([n for n in row if n in KNOWN and holds_something(n, row[n])])
    fields = sorted_out(filled)
    chat = next((n for n in fields.chats if _holds_turns(row, n, fields)), None)
    prompt = fields.prompts[0] if fields.prompts and chat is None else None
    _refuse_columns(row, fields)
    if chat is not None:
        draft.take_turns(row[chat], chat)
    elif prompt is not None:
        draft.take_prompt(turns_text(row[prompt]), prompt)
    answer = None
    if not draft.messages or draft.messages[-1].role != "assistant":
        answer = take_answer(draft, fields, prompt)
    elif fields.answers:
        answer = take_better_answer(draft, fields, prompt)
    if not draft.messages:
        raise _unknown(draft)
    for name in fields.passages:  # the turns may hold the passage already
        if name in draft.read or (chat and _is_in_turns(draft, row[name])):
            continue
        if name != "options" or not isinstance(row[name], dict) or are_texts(row[name].values()):
            draft.add_passage(row[name], name)
    for name in fields.calls:
        draft.add_calls(row[name], name)
    if fields.reasonings:
        _add_reasoning(draft, fields.reasonings[0])
    for name in fields.histories:
        if not (chat and is_said(draft, name, row[name])):
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
            account_for(draft, name)
    first = chat or prompt
    return f"{first} + {answer}" if first and answer else first or answer or ""


def _refuse_columns(row: Mapping[str, Any], fields: Filled) -> None:
    """Raise RowError for a whole table in one row, written by columns: lists of texts."""
    for prompt in fields.prompts[:1]:
        asked = row[prompt]
        for answer in fields.answers[:1]:
            told = row[answer]
            if not (isinstance(asked, list) and isinstance(told, list)) or len(asked) < 2:
                continue
            if len(asked) == len(told) and are_texts(asked) and are_texts(told):
                what = f"fields {prompt!r} and {answer!r} hold {len(asked)} rows: write one a line"
                raise RowError("wrong_type", prompt, what)


def _is_in_turns(draft: Draft, value: Any) -> bool:
    """Whether the turns hold all texts of a passage."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return bool(texts) and are_texts(texts) and all(map(draft.contains, texts))


def _refuse_undesirable(row: Mapping[str, Any], name: str) -> None:
    value = row[name]
    no = value is False or (isinstance(value, str) and value.strip().lower() == "false")
    if no and not row.keys().isdisjoint((*CONVERSATIONS, *ANSWERS)):
        raise RowError("undesirable", name, f"{name} is false: an answer to learn to avoid")


def _holds_turns(row: Mapping[str, Any], name: str, fields: Filled) -> bool:
    """Whether a filled field is the conversation of its row."""
    value = row[name]
    if name in ANY_USE:
        texts = isinstance(value, list) and all(isinstance(v, str) for v in value)
        turns = looks_like_turns(value) or looks_like_pairs(value)
        # A list of texts under the name `turns` may be questions only.
        return turns or (name == "data" and texts)
    # Text and switches are not lists of turns. Beside a prompt they are not the conversation.
    listed = isinstance(value, list | dict) or (isinstance(value, str) and bool(from_json(value)))
    return listed or not fields.prompts


def _add_reasoning(draft: Draft, name: str) -> None:
    """Add reasoning beside the turns to the last answer."""
    last, value = draft.messages[-1], draft.row[name]
    if last.role != "assistant" or last.reasoning or is_switch(value):
        return
    draft.messages[-1] = replace(last, reasoning=reasoning_at(value, name, draft.others))
    draft.read.append(name)


def _unknown(draft: Draft) -> RowError:
    known = next((n for n in draft.row if n in KNOWN), None)
    if known is not None and is_empty(draft.row[known]):
        value = draft.row[known]
        if value is None:  # tables of several schemas have many nulls
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
