"""The parts of a turn: text, reasoning, tool calls, results of tools, media.

OpenAI, Anthropic, Bedrock and Gemini write them as lists of objects; other sets as fields of the
turn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mads_ray.corpus.conversation import Message, ToolCall
from mads_ray.corpus.forms.fields import clean, compact, from_json, is_empty, kind_of
from mads_ray.errors import RowError

_TEXT_TYPES = {None, "", "text", "input_text", "output_text", "refusal", "json"}
_TEXT_KEYS = ("text", "value", "content", "refusal", "json", "parts")
_REASONING_TYPES = {"reasoning", "thinking", "reasoning_content", "reasoning_text"}
_REASONING_KEYS = (
    "reasoningText",
    "thinking",
    "reasoning",
    "reasoning_content",
    "text",
    "value",
    "content",
)
_CALL_TYPES = {"tool_use", "tool_call", "function_call", "server_tool_use"}
_RESULT_TYPES = {"tool_result", "tool_response", "function_response", "function_call_output"}
# A part whose kind is the name of its only field.
_BY_KEY = {
    "toolUse": "tool_use",
    "functionCall": "tool_use",
    "function_call": "tool_use",
    "toolResult": "tool_result",
    "functionResponse": "tool_result",
    "function_response": "tool_result",
    "reasoningContent": "reasoning",
}
_MEDIA_WORDS = ("image", "audio", "video", "file", "document", "inlinedata", "inline_data")
_NAMES = ("name", "tool_name", "toolName")
_IDS = ("tool_call_id", "call_id", "toolUseId", "toolCallId", "id")
_MEDIA_KEYS = ("image", "audio", "video", "inlinedata", "inline_data", "filedata", "file_data")
_DEEPEST = 32
# Fields that hold no content.
_NO_CONTENT = frozenset(
    ("id", "type", "index", "content_type", "cache_control", "uuid", "timestamp", "created_at")
)
_LONGEST_REFERENCE = 256  # of a path or an address; an embedded picture is named by its hash


@dataclass(slots=True)
class Spoken:
    """The content of a turn, gathered part by part. `results` become turns of their own."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    media: list[str] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)  # fields of objects that are not read
    depth: int = 0
    order: list[str] = field(default_factory=list)  # of the parts, by kind

    @property
    def content(self) -> str:
        """All texts, one a line."""
        return "\n".join(self.texts)

    def add(self, value: Any, where: str, text_only: bool) -> None:
        """Add content: text, one part, or a list of parts. Raises RowError."""
        if self.depth > _DEEPEST:
            raise RowError("wrong_type", where[:200], "parts are nested too deeply")
        if isinstance(value, str):
            self.texts.append(clean(value, where))
        elif isinstance(value, list):
            for i, part in enumerate(value):
                self._part(part, f"{where}[{i}]", text_only)
        elif isinstance(value, dict):
            self._part(value, where, text_only)
        else:
            raise RowError("wrong_type", where, f"{where} must be text, it is {kind_of(value)}")

    def _part(self, part: Any, where: str, text_only: bool) -> None:
        if isinstance(part, str):
            self.texts.append(clean(part, where))
            self.order.append("texts")
            return
        if not isinstance(part, dict):
            raise _not_text(kind_of(part), where)
        kind = part.get("type") or part.get("content_type")
        for key, of_key in _BY_KEY.items():
            if isinstance(part.get(key), dict):
                self._note(part, (key,), where, text_only)
                kind, part = of_key, part[key]
                break
        if not isinstance(kind, str | None):
            raise _not_text(kind_of(kind), where)
        kind = kind and kind.replace("-", "_").lower()
        if kind in _CALL_TYPES:
            self.calls.append(call_of(part, where, self.beside))
            self.order.append("calls")
        elif kind in _RESULT_TYPES:
            self.results.append(self._result(part, where, text_only))
            self.order.append("results")
        elif kind in _REASONING_TYPES:
            self.reasoning.append(self._text(part, _REASONING_KEYS, where, text_only))
            self.order.append("reasoning")
        elif (medium := _medium(kind, part)) is not None:
            self.media.append(medium_reference(part, medium, where, text_only))
            self.order.append("media")
            if not is_empty(part.get("text")):
                self.texts.append(self._text(part, ("text",), where, text_only))
        elif kind in _TEXT_TYPES:
            self.texts.append(self._text(part, _TEXT_KEYS, where, text_only))
            self.order.append("texts")
        else:
            raise _not_text(str(kind), where)

    def _text(
        self, part: Mapping[str, Any], keys: tuple[str, ...], where: str, text_only: bool
    ) -> str:
        """The first filled field of these. Raises RowError where another one has other content."""
        key = next((k for k in keys if not is_empty(part.get(k))), None)
        if key is None:
            key = next((k for k in keys if isinstance(part.get(k), str)), None)
        if key is None:
            raise _not_text(str(part.get("type", "?")), where)
        value = part[key]
        self._note(part, (key, *(k for k in keys if part.get(k) == value)), where, text_only)
        if isinstance(value, str):
            return clean(value, where)
        if key == "json":
            return compact(value, where)
        inner = self._within()
        inner.add(value, f"{where}.{key}", text_only)
        self.calls += inner.calls
        self.media += inner.media
        self.results += inner.results
        return "\n".join([*inner.reasoning, *inner.texts])

    def _result(self, part: Mapping[str, Any], where: str, text_only: bool) -> Message:
        """A tool result: content (Anthropic, Bedrock), response (Gemini) or output (OpenAI)."""
        inner = self._within()
        keys = ("content", "response", "output", "result", "text", "value")
        key = next((k for k in keys if not is_empty(part.get(k))), None)
        if key is not None:
            value = part[key]
            if isinstance(value, dict) and not is_part(value):
                value = compact(value, f"{where}.{key}")
            inner.add(value, f"{where}.{key}", text_only)
        if inner.calls or inner.reasoning or inner.results:
            raise _not_text("a call within a result", where)
        call_id = next((str(v) for k in ("tool_use_id", *_IDS) if (v := part.get(k))), "")
        name = next((v for k in _NAMES if isinstance(v := part.get(k), str)), "")
        self._note(part, (key or "", "tool_use_id", *_IDS, *_NAMES), where, text_only)
        answer = Message("tool", inner.content, media=tuple(inner.media))
        return replace(answer, name=clean(name, where), call_id=clean(call_id, where))

    def _within(self) -> Spoken:
        return Spoken(beside=self.beside, depth=self.depth + 1)

    def _note(
        self, part: Mapping[str, Any], read: tuple[str, ...], where: str, text_only: bool
    ) -> None:
        """Note the fields of an object that were not read. Media are noted as media."""
        for key in part:
            if key not in read and not is_empty(part[key]) and _is_medium(key):
                self.media.append(medium_reference(part[key], key, f"{where}.{key}", text_only))
                read = (*read, key)
        note_beside(part, read, where, self.beside)


def is_part(value: Mapping[str, Any]) -> bool:
    """Whether an object says what kind of part it is."""
    return not value.keys().isdisjoint(("type", "content_type", "text", "json", *_BY_KEY))


def note_beside(
    value: Mapping[str, Any], read: tuple[str, ...], where: str, beside: list[str]
) -> None:
    """Keep the fields of an object that are not read, for the uid. Raises RowError."""
    for key, held in value.items():
        if key not in read and key not in _NO_CONTENT and not is_empty(held):
            beside.append(clean(f"{where}.{key}: {compact(held, where)}", where))


def call_of(value: Any, where: str, beside: list[str]) -> ToolCall:
    """Read a tool call of any known form. Other fields of it go to `beside`. Raises RowError."""
    if not isinstance(value, dict):
        raise RowError("wrong_type", where, f"{where} must be a tool call, it is {kind_of(value)}")
    inner = next((v for k in ("function", "custom") if isinstance(v := value.get(k), dict)), value)
    named = next((k for k in _NAMES if inner.get(k)), "")
    name = inner.get(named)
    if not isinstance(name, str):
        raise RowError("missing_field", f"{where}.name", f"{where}: a tool call needs a name")
    keys = ("arguments", "input", "args", "parameters")
    key = next((k for k in keys if not is_empty(inner.get(k))), None)
    if key is None:
        key = next((k for k in keys if inner.get(k) is not None), None)
    arguments = "" if key is None else _arguments(inner[key], f"{where}.{key}")
    if inner is not value:
        outer = next(k for k in ("function", "custom") if value.get(k) is inner)
        note_beside(value, (outer, *_IDS), where, beside)
    note_beside(inner, (key or "", named, *_IDS), where, beside)
    call_id = next((v for k in _IDS if (v := value.get(k))), "")
    return ToolCall(clean(name, where), arguments, clean(str(call_id), where))


def calls_of(value: Any, where: str, beside: list[str]) -> list[ToolCall] | None:
    """Read one or more tool calls, also as JSON text; None for other text. Raises RowError."""
    if isinstance(value, str):
        value = from_json(value)
        if value is None:
            return None
    listed = value if isinstance(value, list) else [value]
    return [call_of(v, f"{where}[{i}]", beside) for i, v in enumerate(listed) if v is not None]


def reasoning_at(value: Any, where: str, beside: list[str]) -> str:
    """Read reasoning in a field of its own: text, or parts. Raises RowError."""
    thought = Spoken(beside=beside)
    thought.add(value, where, text_only=False)
    if thought.calls or thought.results:
        raise _not_text("a call within reasoning", where)
    return "\n".join(t for t in (*thought.reasoning, *thought.texts) if t)


def medium_reference(value: Any, medium: str, where: str, text_only: bool) -> str:
    """A text that identifies an image, sound or film. Raises RowError unless `text_only`."""
    if not text_only:
        raise RowError(
            "not_text",
            where,
            f"{where} is of type {medium[:40]!r}; only text is read (--text-only reads the row "
            "without it)",
        )
    text = compact(value, where)
    if len(text) <= _LONGEST_REFERENCE:
        return text
    return "blake2b:" + hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def _arguments(value: Any, where: str) -> str:
    if not isinstance(value, str):
        return compact(value, where)
    parsed = from_json(value)
    if parsed is None or _repeats_a_key(value):
        return clean(value, where)
    return compact(parsed, where)


def _repeats_a_key(text: str) -> bool:
    """Whether an object in JSON text has a key twice: parsing would lose one."""
    repeated = False

    def check(pairs: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated = repeated or len({k for k, _ in pairs}) < len(pairs)

    try:
        json.loads(text, object_pairs_hook=check)
    except ValueError:
        return True
    return repeated


def _medium(kind: str | None, part: Mapping[str, Any]) -> str | None:
    """The word for a part that is not text; None for text."""
    if kind is not None and any(word in kind for word in _MEDIA_WORDS):
        return kind
    if kind or any(not is_empty(part.get(k)) for k in _TEXT_KEYS):
        return None
    return next((k for k, v in part.items() if not is_empty(v) and _is_medium(k)), None)


def _is_medium(key: str) -> bool:
    return key.lower().startswith(_MEDIA_KEYS)


def _not_text(kind: str, where: str) -> RowError:
    return RowError("not_text", where, f"{where} is of type {kind[:40]!r}; only text is read")


def unread(name: str, why: str) -> RowError:
    """The error for a known field whose content would be lost."""
    return RowError("unread_field", name, f"field {name!r} would not be read: {why}")
