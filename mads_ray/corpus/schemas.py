"""Recognise what shape a row has and turn it into a conversation.

Four schemas are known, by their keys: `messages` (OpenAI chat), `conversations` (ShareGPT),
`instruction` (Alpaca, Dolly), `prompt` + `completion`. An explicit field map overrides them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.errors import RowError

_ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}
_SCHEMA_KEYS = ("messages", "conversations", "conversation", "instruction", "prompt")
_LABELS = ("task", "category", "dataset")
_MAX_LABEL = 200


@dataclass(frozen=True, slots=True)
class Reading:
    """How a row was understood.

    `schema` names its shape; `read` are the fields that went into the conversation, `unread` known
    ones that were left out on purpose, such as the rejected answer of a pair.
    """

    conversation: Conversation
    schema: str
    read: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def read_row(row: Any, fields: Mapping[Any, str] | None = None, text_only: bool = False) -> Reading:
    """Return the conversation a row holds, and how it was understood.

    `fields` maps system, prompt, input, response or messages to (dotted) field names. An empty
    response is fine: the prompt alone still excites the model. Raises RowError otherwise.
    """
    if not isinstance(row, dict):
        raise RowError("not_an_object", "", f"a row must be an object, this is {_kind(row)}")
    if fields:
        messages = _by_field_map(row, fields)
    elif row.get("messages") is not None:
        messages = _turns(row["messages"], "messages")
    elif row.get("conversations") is not None or row.get("conversation") is not None:
        name = "conversations" if row.get("conversations") is not None else "conversation"
        messages = _turns(row[name], name)
        if row.get("system"):
            messages.insert(0, Message("system", _text(row, "system")))
    elif row.get("instruction") is not None:
        extra = "context" if "context" in row and "input" not in row else "input"
        response = next((n for n in ("output", "response", "completion") if n in row), "output")
        messages = _pair(row, "instruction", response, extra)
    elif row.get("prompt") is not None:
        names = ("completion", "response", "output", "answer")
        response = next((n for n in names if n in row), "completion")
        messages = _pair(row, "prompt", response, None)
    else:
        null = next((n for n in _SCHEMA_KEYS if n in row), None)
        if null is not None:  # tables merged from several schemas are full of nulls
            raise RowError("wrong_type", null, f"field {null!r} is null")
        keys = ", ".join(sorted(map(str, row))[:8]) or "none"
        raise RowError(
            "unknown_schema",
            "",
            f"no messages, conversations, instruction or prompt field (fields: {keys}); "
            "name yours with --field prompt=... --field response=...",
        )
    kept = tuple(m for m in messages if m.content.strip() or m.role != "system")
    if not any(m.content.strip() for m in kept if m.role != "system"):
        raise RowError("empty", "", "every user and assistant turn of this row is empty")
    return Reading(Conversation(kept), "")


def label_of(row: Any, field: str | None) -> str | None:
    """The task label a row carries, for the report; never used to select."""
    if not isinstance(row, dict):
        return None
    for name in (field,) if field else _LABELS:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return clean(str(value), name)[:_MAX_LABEL]
    return None


def clean(text: str, field: str) -> str:
    """Unify line ends and drop a byte order mark; refuse text that UTF-8 cannot carry."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise RowError(
            "invalid_unicode", field, f"half of a surrogate pair at character {e.start}"
        ) from e
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix("\ufeff")


def _kind(value: Any) -> str:
    names = {"str": "text", "NoneType": "null", "list": "a list", "dict": "an object"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")


def lookup(row: Any, dotted: str) -> Any:
    """The value at a dotted name, None where there is none."""
    node = row
    for name in dotted.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return None
        node = node[name]
    return node


def _lookup(row: Mapping[str, Any], dotted: str) -> Any:
    node: Any = row
    for name in dotted.split("."):
        if not isinstance(node, Mapping) or name not in node:
            raise RowError("missing_field", dotted, f"the row has no field {dotted!r}")
        node = node[name]
    return node


def _text(row: Mapping[str, Any], dotted: str) -> str:
    value = _lookup(row, dotted)
    if not isinstance(value, str):
        raise RowError("wrong_type", dotted, f"field {dotted!r} must be text, it is {_kind(value)}")
    return clean(value, dotted)


def _optional_text(row: Mapping[str, Any], dotted: str | None) -> str:
    if dotted is None:
        return ""
    try:
        value = _lookup(row, dotted)
    except RowError:
        return ""
    return "" if value is None else _text(row, dotted)


def _pair(
    row: Mapping[str, Any], prompt: str, response: str, extra: str | None, system: str | None = None
) -> list[Message]:
    asked, more = _text(row, prompt), _optional_text(row, extra)
    user = f"{asked}\n\n{more}" if asked.strip() and more.strip() else asked + more
    turns = [Message("user", user), Message("assistant", _text(row, response))]
    head = _optional_text(row, system or "system")
    return [Message("system", head), *turns] if head else turns


def _by_field_map(row: Mapping[str, Any], fields: Mapping[str, str]) -> list[Message]:
    if "messages" in fields:
        return _turns(_lookup(row, fields["messages"]), fields["messages"])
    if "prompt" not in fields or "response" not in fields:
        raise RowError("bad_field_map", "", "a field map names messages, or prompt and response")
    return _pair(
        row, fields["prompt"], fields["response"], fields.get("input"), fields.get("system")
    )


def _turns(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list):
        raise RowError("wrong_type", name, f"field {name!r} must be a list, it is {_kind(value)}")
    if not value:
        raise RowError("empty", name, f"field {name!r} is an empty list")
    return [_turn(turn, f"{name}[{i}]") for i, turn in enumerate(value)]


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError("wrong_type", where, f"{where} must be an object, it is {_kind(turn)}")
    role_key = "role" if "role" in turn else "from"
    if role_key not in turn:
        raise RowError("missing_field", f"{where}.role", f"{where} has no role (or from)")
    role = _ROLES.get(str(turn[role_key]).strip().lower())
    if role is None:
        known = ", ".join(sorted(set(_ROLES)))
        raise RowError(
            "unknown_role",
            f"{where}.{role_key}",
            f"{where} has the unknown role {str(turn[role_key])[:40]!r} (known: {known})",
        )
    text_key = next((k for k in ("content", "value", "text") if k in turn), None)
    if text_key is None:
        raise RowError("missing_field", f"{where}.content", f"{where} has no content (or value)")
    field = f"{where}.{text_key}"
    content = turn[text_key]
    if content is None and role == "assistant" and turn.get("tool_calls"):
        content = json.dumps(turn["tool_calls"], ensure_ascii=False, default=str)
    if isinstance(content, list):
        content = "\n".join(_part(part, f"{field}[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise RowError("wrong_type", field, f"{field} must be text, it is {_kind(content)}")
    return Message(role, clean(content, field))


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type", "?") if isinstance(part, dict) else _kind(part)
    raise RowError("not_text", where, f"{where} is of type {str(kind)[:40]!r}; only text is read")
