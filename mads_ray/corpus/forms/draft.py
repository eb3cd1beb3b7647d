"""A conversation in the making, and which fields of its row have gone into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.corpus.forms.fields import answer_at, clean, compact, from_json, text_at
from mads_ray.corpus.forms.parts import Spoken, calls_of, unread
from mads_ray.corpus.forms.turns import looks_like_turn, looks_like_turns, turns_of
from mads_ray.errors import RowError


@dataclass(slots=True)
class Draft:
    """What was read of `row` so far. Every method raises RowError for what cannot be read."""

    row: Mapping[str, Any]
    text_only: bool
    messages: list[Message] = field(default_factory=list)
    tools: str = ""
    media: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def take_turns(self, value: Any, name: str) -> None:
        """Append the turns that a field holds."""
        found = turns_of(value, name, self.text_only)
        self.messages += found.messages
        if found.tools is not None:
            self._keep_tools(found.tools, f"{name}[].tools")
        self.read.append(name)

    def take_prompt(self, value: Any, name: str) -> None:
        """Append the user's turn, or the turns that a prompt consists of."""
        if looks_like_turns(value) or looks_like_turn(value):
            self.take_turns(value, name)
        else:
            self.say("user", text_at(value, name), name)

    def say(self, role: str, text: str, name: str) -> None:
        """Append a turn that was read from a field."""
        self.messages.append(Message(role, text))
        self.read.append(name)

    def take_history(self, value: Any, name: str) -> None:
        """Put earlier turns in front."""
        self.messages[:0] = turns_of(value, name, self.text_only).messages
        self.read.append(name)

    def add_passage(self, value: Any, name: str) -> None:
        """Let what the prompt is about follow on the first question."""
        passage = answer_at(value, name)
        self.read.append(name)
        at = next((i for i, m in enumerate(self.messages) if m.role == "user"), None)
        if at is None:
            self.messages.insert(0, Message("user", passage))
            return
        asked = self.messages[at].content
        both = f"{asked}\n\n{passage}" if asked.strip() and passage.strip() else asked + passage
        self.messages[at] = self.messages[at].with_content(both)

    def add_system(self, value: Any, name: str) -> None:
        """Put a system turn in front, unless the turns have the same one."""
        spoken = Spoken()
        spoken.add(value, name, self.text_only)
        self.read.append(name)
        head = spoken.content
        given = (m.content.strip() for m in self.messages if m.role == "system")
        if head.strip() and head.strip() not in given:
            self.messages.insert(0, Message("system", head))

    def add_tools(self, value: Any, name: str) -> None:
        """Keep tool definitions; text that is no JSON is a system turn."""
        self._keep_tools(value, name)
        self.read.append(name)

    def _keep_tools(self, value: Any, name: str) -> None:
        listed = from_json(value) if isinstance(value, str) else value
        if isinstance(listed, dict):
            listed = [listed]
        if not isinstance(listed, list) or not all(isinstance(t, dict) for t in listed):
            text = value if isinstance(value, str) else compact(value, name)
            if not self.says(text):
                self.messages.insert(0, Message("system", clean(text, name)))
            return
        if not listed:
            return
        tools = compact(listed, name)
        if self.tools and tools != self.tools:
            raise unread(name, "the turns list other tools")
        told = isinstance(value, str) and any(
            m.role == "system" and value.strip() in m.content for m in self.messages
        )
        self.tools = "" if told else tools

    def add_calls(self, value: Any, name: str) -> None:
        """Let the last answer, or one of its own, make tool calls; text is said as it stands."""
        calls = calls_of(value, name)
        if not self.messages or self.messages[-1].role != "assistant":
            self.messages.append(Message("assistant", ""))
        last = self.messages[-1]
        if calls is None:
            said = "\n".join(t for t in (last.content, text_at(value, name)) if t)
            self.messages[-1] = last.with_content(said)
        else:
            new = tuple(c for c in calls if c not in last.calls)
            self.messages[-1] = replace(last, calls=(*last.calls, *new))
        self.read.append(name)

    def keep_beside(self, name: str) -> None:
        """Let a field that no turn holds only keep this row's uid from that of others."""
        self.others.append(f"{name}: {compact(self.row[name], name)}")
        self.unread.append(name)

    def says(self, text: str) -> bool:
        """Whether this is a turn's content or reasoning, to the letter."""
        text = text.strip()
        return any(text in (m.content.strip(), m.reasoning.strip()) for m in self.messages)

    def contains(self, text: str) -> bool:
        """Whether this is within a turn's content or reasoning."""
        text = text.strip()
        return any(text in m.content or text in m.reasoning for m in self.messages)

    def conversation(self) -> Conversation:
        """Raises RowError where nobody but the system says anything."""
        kept, said = [], False
        for message in self.messages:
            empty = message.is_empty
            if message.role != "system":
                said = said or not empty
            elif empty:
                continue
            kept.append(message)
        if not said:
            raise RowError("empty", "", "every user and assistant turn of this row is empty")
        return Conversation(tuple(kept), self.tools, tuple(self.media), tuple(sorted(self.others)))
