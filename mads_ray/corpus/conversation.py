"""An example: its turns, the tools that they may call, and the media that they refer to.

A conversation holds all that a trainer would see of a row. The uid is a hash of all of it, so rows
that differ anywhere in it are never duplicates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant makes.

    `arguments` is compact JSON text, with keys in the row's order. Other text stays as it is.
    """

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is system, user, assistant or tool.

    `reasoning` and `calls` are the assistant's. `name` is the tool that gave this result, or the
    speaker. `call_id` is the call that the result answers. `media` refers to images, audio or video
    that are not in `content`.
    """

    role: str
    content: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    name: str = ""
    call_id: str = ""
    media: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the turn has no text, reasoning, calls or media."""
        return (
            (not self.content or self.content.isspace())
            and (not self.reasoning or self.reasoning.isspace())
            and not self.calls
        )

    def stripped(self) -> Message:
        """The same turn without white space at both ends."""
        m, content, reasoning = self, self.content.strip(), self.reasoning.strip()
        return Message(m.role, content, reasoning, m.calls, m.name, m.call_id, m.media)

    def with_content(self, content: str) -> Message:
        """The same turn with another content."""
        m = self
        return Message(m.role, content, m.reasoning, m.calls, m.name, m.call_id, m.media)


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a row, and what belongs to all of them.

    `tools` is the compact JSON text of a list of tool definitions, "" where there are none. `media`
    refers to media columns of the row. `others` holds content of the row that is not read as turns,
    such as further answers. It is part of the uid only, so that different rows get different uids.
    """

    messages: tuple[Message, ...]
    tools: str = ""
    media: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it has roles and contents only."""
        if self.tools or self.media or self.others:
            return False
        return not any(
            m.reasoning or m.calls or m.name or m.call_id or m.media for m in self.messages
        )

    def to_json(self) -> str:
        """Compact JSON text. A plain conversation is a list of [role, content]."""
        if self.is_plain:  # nearly all; the encoder takes three times as long for lists
            turns = (f'["{m.role}", {_ENCODE(m.content)}]' for m in self.messages)
            return f"[{', '.join(turns)}]"
        return _ENCODE(self.plain())

    @staticmethod
    def from_json(text: str) -> Conversation:
        """Read what `to_json` wrote."""
        stored = json.loads(text)
        whole: dict[str, Any] = {"messages": stored} if isinstance(stored, list) else stored
        return Conversation(
            tuple(_message(*turn) for turn in whole["messages"]),
            whole.get("tools", ""),
            tuple(whole.get("media", ())),
            tuple(whole.get("others", ())),
        )

    def to_row(self) -> dict[str, Any]:
        """A row of OpenAI's chat schema. It reads as this conversation without its media."""
        row: dict[str, Any] = {"messages": [_openai(m) for m in self.messages]}
        return {**row, "tools": json.loads(self.tools)} if self.tools else row

    def plain(self) -> Any:
        """The conversation as lists, dicts and text, without empty parts."""
        turns = [_turn(m) for m in self.messages]
        beside = {k: v for k in ("tools", "media", "others") if (v := getattr(self, k))}
        return {"messages": turns, **beside} if beside else turns


def _openai(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.calls:
        turn["tool_calls"] = [
            {
                **({"id": c.id} if c.id else {}),
                "type": "function",
                "function": {"name": c.name, "arguments": c.arguments},
            }
            for c in message.calls
        ]
    if message.name:
        turn["name"] = message.name
    if message.call_id:
        turn["tool_call_id"] = message.call_id
    return turn


def _turn(message: Message) -> list[Any]:
    more: dict[str, Any] = {
        k: v for k in ("reasoning", "name", "call_id", "media") if (v := getattr(message, k))
    }
    if message.calls:
        more["calls"] = [[c.name, c.arguments, c.id] for c in message.calls]
    turn: list[Any] = [message.role, message.content]
    return [*turn, more] if more else turn


def _message(role: str, content: str, more: dict[str, Any] | None = None) -> Message:
    if not more:
        return Message(role, content)
    calls = tuple(ToolCall(*call) for call in more.get("calls", ()))
    media = tuple(more.get("media", ()))
    text = {k: more[k] for k in ("reasoning", "name", "call_id") if k in more}
    return Message(role, content, calls=calls, media=media, **text)
