"""Read lists of turns as messages, in every form that public data sets and trainers use.

A turn is an object with a role, an object that holds a question and its answer, or a text in a list
where user and assistant alternate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mads_ray.corpus.conversation import Message
from mads_ray.corpus.forms.fields import (
    ANSWERS,
    CALLS,
    HISTORIES,
    MEDIA,
    PASSAGES,
    PROMPTS,
    REASONINGS,
    SYSTEMS,
    TOOLS,
    clean,
    compact,
    from_json,
    holds_something,
    is_empty,
    kind_of,
)
from mads_ray.corpus.forms.parts import (
    Spoken,
    calls_of,
    is_part,
    medium_reference,
    note_beside,
    reasoning_at,
    unread,
)
from mads_ray.corpus.forms.roles import PLAIN, ROLES, is_calling, role_of
from mads_ray.errors import RowError

_USUAL = ["media", "reasoning", "texts", "calls", "results"]  # order within a turn
_CONTENTS = ("content", "value", "text", "parts", "refusal")
# Two turns in one object: the names of its question and of its answer.
_ASKED = ("input", "human", "user", "prompt", "question", "instruction", "query")
_ANSWERED = ("output", "assistant", "response", "completion", "answer", "bot", "gpt", "model")
# Fields of a turn with a role that `_with_role` and `_add` read.
_READ = frozenset(
    (*_CONTENTS, *CALLS, *REASONINGS, *MEDIA, *TOOLS, "name", "tool_call_id", "call_id")
)
# These are content in a row, but are not read within a turn.
_BESIDE = frozenset((*PROMPTS, *ANSWERS, *PASSAGES, *SYSTEMS, *HISTORIES)) - {"target", "targets"}


@dataclass(slots=True)
class Turns:
    """Messages in order, and the tools that a turn lists (None where no turn does)."""

    messages: list[Message] = field(default_factory=list)
    tools: Any = None
    beside: list[str] = field(default_factory=list)  # fields that are not read


def looks_like_turns(value: Any) -> bool:
    """Whether a value is a list of turns with roles, not of rows."""
    return isinstance(value, list) and bool(value) and all(map(looks_like_turn, value))


def looks_like_turn(value: Any) -> bool:
    """Whether an object is a turn with a role."""
    if not isinstance(value, dict):
        return False
    role = value.get("role", value.get("from"))
    return isinstance(role, str) and role_of(role) is not None


def looks_like_pairs(value: Any) -> bool:
    """Whether a list holds objects with a question and its answer."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(v, dict)
            and not v.keys().isdisjoint(_ASKED)
            and not v.keys().isdisjoint(_ANSWERED)
            for v in value
        )
    )


def turns_of(value: Any, name: str, text_only: bool = False) -> Turns:
    """Read the turns in a field: a list, one object, or JSON text of either. Raises RowError."""
    if isinstance(value, str):
        parsed = from_json(value)
        if parsed is None:
            raise RowError("wrong_type", name, f"field {name!r} must be a list, it is text")
        value = parsed
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        what = f"field {name!r} must be a list, it is {kind_of(value)}"
        raise RowError("wrong_type", name, what)
    if not value:
        raise RowError("empty", name, f"field {name!r} is an empty list")
    found = Turns()
    texts = all(isinstance(turn, str) for turn in value)
    for i, turn in enumerate(value):
        where = f"{name}[{i}]"
        if texts:
            role = "assistant" if i % 2 else "user"
            found.messages.append(Message(role, clean(turn, where)))
        elif looks_like_turns(turn):
            inner = turns_of(turn, where, text_only)
            found.messages += inner.messages
            found.beside += inner.beside
            if inner.tools is not None:
                _keep_tools(found, inner.tools, where)
        elif isinstance(turn, list) and len(turn) == 2:  # a history of pairs
            found.messages += _two(turn, where, text_only, found.beside)
        elif isinstance(turn, dict):
            _add(found, turn, where, text_only)
        else:
            what = f"{where} must be an object, it is {kind_of(turn)}"
            raise RowError("wrong_type", where, what)
    return found


def _add(found: Turns, turn: Mapping[str, Any], where: str, text_only: bool) -> None:
    role_key = "role" if turn.get("role") is not None else "from"
    content = turn.get("content" if role_key == "role" else "value")
    if len(turn) == 2 and isinstance(content, str):  # nearly all turns
        plain = PLAIN.get(turn[role_key]) if isinstance(turn.get(role_key), str) else None
        if plain is not None:
            field_ = "content" if role_key == "role" else "value"
            found.messages.append(Message(plain, clean(content, f"{where}.{field_}")))
            return
    if turn.get(role_key) is None:
        _add_pair(found, turn, where, text_only)
        return
    named = str(turn[role_key]).strip()
    role = role_of(named)
    if role is None:
        raise RowError(
            "unknown_role",
            f"{where}.{role_key}",
            f"{where} has the unknown role {named[:40]!r} (known: {', '.join(sorted(ROLES))})",
        )
    found.messages += _withrole_of(turn, role, named, where, text_only, found.beside)
    _account_for(turn, _READ | {role_key}, where, found.beside)
    for listed in TOOLS:
        if listed in turn and holds_something(listed, turn[listed]):
            _keep_tools(found, turn[listed], f"{where}.{listed}")


def _add_pair(found: Turns, turn: Mapping[str, Any], where: str, text_only: bool) -> None:
    """Add a question and its answer, with the reasoning and calls of the answer."""
    asked = next((n for n in _ASKED if not is_empty(turn.get(n))), None)
    asked = asked or next((n for n in _ASKED if n in turn), None)
    answered = next((n for n in _ANSWERED if not is_empty(turn.get(n))), None)
    answered = answered or next((n for n in _ANSWERED if n in turn), None)
    if asked is None or answered is None:
        raise RowError("missing_field", f"{where}.role", f"{where} has no role (or from)")
    if not is_empty(turn.get("system")):
        spoken = Spoken(beside=found.beside)
        found.messages += _spoken(spoken, turn["system"], "system", f"{where}.system", text_only)
    if not is_empty(turn[asked]):
        spoken = Spoken(beside=found.beside)
        found.messages += _spoken(spoken, turn[asked], "user", f"{where}.{asked}", text_only)
    own = (*REASONINGS, *CALLS, *MEDIA, *TOOLS)
    answer = {k: turn[k] for k in own if k in turn} | {"content": turn[answered]}
    if answer["content"] is None:
        answer["content"] = ""
    found.messages += _withrole_of(answer, "assistant", "assistant", where, text_only, found.beside)
    for listed in (n for n in TOOLS if n in turn and holds_something(n, turn[n])):
        _keep_tools(found, turn[listed], f"{where}.{listed}")
    _account_for(turn, {asked, answered, "system", *own}, where, found.beside)


def _keep_tools(found: Turns, tools: Any, where: str) -> None:
    if found.tools is not None and found.tools != tools:
        raise unread(where, "other tools were listed before")
    found.tools = tools


def _account_for(
    turn: Mapping[str, Any], read: Collection[str], where: str, beside: list[str]
) -> None:
    """Refuse fields that hold content beside turns. Keep other fields for the uid."""
    for name in turn:
        if name in read or is_empty(turn[name]):
            continue
        if name in _BESIDE:
            raise unread(f"{where}.{name}", "it is known beside turns, not within one")
    note_beside(turn, tuple(read), where, beside)


def _two(
    values: Sequence[Any],
    where: str,
    text_only: bool,
    beside: list[str],
) -> Iterator[Message]:
    """Yield a question and its answer. An empty question is no turn."""
    for i, (value, role) in enumerate(zip(values, ("user", "assistant"), strict=True)):
        if role == "assistant" or not is_empty(value):
            spoken, said = Spoken(beside=beside), "" if value is None else value
            yield from _spoken(spoken, said, role, f"{where}[{i}]", text_only)


def _spoken(spoken: Spoken, value: Any, role: str, where: str, text_only: bool) -> list[Message]:
    spoken.add(value, where, text_only)
    return _messages(spoken, role, "", "", where)


def _withrole_of(
    turn: Mapping[str, Any],
    role: str,
    named: str,
    where: str,
    text_only: bool,
    beside: list[str],
) -> list[Message]:
    spoken = Spoken(beside=beside)
    filled = [k for k in _CONTENTS if k in turn and not is_empty(turn[k])]
    for key in REASONINGS:
        if key in turn and not is_empty(turn[key]):
            thought = reasoning_at(turn[key], f"{where}.{key}", beside)
            spoken.reasoning += [thought] if thought else []
    spoken.reasoning = list(dict.fromkeys(spoken.reasoning))  # the same under two names
    if filled:
        key, *more = filled
        value = turn[key]
        if isinstance(value, bool | int | float) or (role == "tool" and not _is_parts(value)):
            value = compact(value, f"{where}.{key}")
        _content(spoken, value, f"{where}.{key}", is_calling(named), text_only)
        for other in more:
            if turn[other] != turn[key]:
                raise unread(f"{where}.{other}", f"{key!r} was read")
    for key in CALLS:
        if key in turn and holds_something(key, turn[key]):
            calls = calls_of(turn[key], f"{where}.{key}", beside)
            if calls is None:
                spoken.add(turn[key], f"{where}.{key}", text_only=False)
            else:
                known = set(spoken.calls)  # the same under two names
                spoken.calls += [c for c in calls if c not in known]
    for key in MEDIA:
        if key in turn and holds_something(key, turn[key]):
            spoken.media.append(medium_reference(turn[key], key, f"{where}.{key}", text_only))
    if not (filled or spoken.calls or spoken.reasoning or spoken.media or spoken.texts):
        _refuse_missing(turn, where)
    name = turn.get("name")
    if not isinstance(name, str) and not is_empty(name):
        note_beside({"name": name}, (), where, beside)
    call_id = next((turn[k] for k in ("tool_call_id", "call_id") if turn.get(k)), "")
    return _messages(
        spoken,
        role,
        clean(name, f"{where}.name") if isinstance(name, str) else "",
        clean(str(call_id), f"{where}.tool_call_id"),
        where,
    )


def _content(spoken: Spoken, value: Any, where: str, calling: bool, text_only: bool) -> None:
    if calling and isinstance(value, dict | str):
        calls = _calls_said(value, where, spoken.beside)
        if calls is not None:
            spoken.calls += calls
            return
    spoken.add(value, where, text_only)


def _is_parts(value: Any) -> bool:
    """Whether content is text or parts. (The result of a tool may be any data.)"""
    if isinstance(value, list):
        return not any(isinstance(v, list) for v in value) and all(map(_is_parts, value))
    return isinstance(value, str) or (isinstance(value, dict) and is_part(value))


def _calls_said(value: Any, where: str, beside: list[str]) -> list[Any] | None:
    try:
        return calls_of(value, where, beside)
    except RowError:
        return None  # other JSON is read as text


def _refuse_missing(turn: Mapping[str, Any], where: str) -> None:
    """Raise RowError for a turn without any content field. A blank text is allowed."""
    key = next((k for k in _CONTENTS if k in turn), None)
    if key is None:
        raise RowError("missing_field", f"{where}.content", f"{where} has no content (or value)")
    if not isinstance(turn[key], str | list):
        field_ = f"{where}.{key}"
        raise RowError("wrong_type", field_, f"{field_} must be text, it is {kind_of(turn[key])}")


def _messages(spoken: Spoken, role: str, name: str, call_id: str, where: str) -> list[Message]:
    """The turn. Where it holds tool results, several turns in the order of its parts."""
    if role != "assistant" and (spoken.calls or spoken.reasoning):
        what = "tool calls" if spoken.calls else "reasoning"
        raise unread(where, f"{what} are the assistant's, this turn is of the role {role!r}")
    if not spoken.results:
        kinds = [k for k in spoken.order if k != "media" or spoken.texts]
        if kinds != sorted(kinds, key=_USUAL.index):  # noted for the uid
            spoken.beside.append(f"{where} order: {' '.join(kinds)}")
        return [_message(spoken, role, name, call_id)]
    left = {kind: list(getattr(spoken, kind)) for kind in _USUAL}
    found: list[Message] = []
    now = Spoken()
    for kind in [*spoken.order, *(k for k in _USUAL for _ in left[k])]:
        if not left[kind]:
            continue
        part = left[kind].pop(0)
        if kind != "results":
            getattr(now, kind).append(part)
            continue
        own = _message(now, role, name, call_id)
        found += [own] if not own.is_empty or own.media else []
        found.append(part)
        now = Spoken()
    own = _message(now, role, name, call_id)
    return [*found, own] if not own.is_empty or own.media else found


def _message(spoken: Spoken, role: str, name: str, call_id: str) -> Message:
    reasoning, calls = "\n".join(spoken.reasoning), tuple(spoken.calls)
    return Message(role, spoken.content, reasoning, calls, name, call_id, tuple(spoken.media))
