"""A conversation while it is read, and the fields of the row that were used for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.corpus.forms.fields import clean, compact, from_json, is_empty, said_at, text_at
from mads_ray.corpus.forms.parts import Spoken, calls_of, note_beside, unread
from mads_ray.corpus.forms.transcripts import transcript
from mads_ray.corpus.forms.turns import looks_like_turn, looks_like_turns, turns_of
from mads_ray.errors import RowError


@dataclass(slots=True)
class Draft:
    """What was read of `row` so far. Its methods raise RowError for values they cannot read."""

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
        self.messages += self.turns(value, name)
        self.read.append(name)

    def turns(self, value: Any, name: str) -> list[Message]:
        """The turns that a field holds. Tool definitions in them are kept."""
        found = turns_of(value, name, self.text_only)
        self.others += found.beside
        if found.tools is not None:
            self._keep_tools(found.tools, f"{name}[].tools")
        return found.messages

    def take_prompt(self, value: Any, name: str) -> None:
        """Append a prompt: a turn of the user, or several turns."""
        if isinstance(value, str):
            said = transcript(value)
            if said is None:
                self.say("user", clean(value, name), name)
                return
            self.take_transcript(said, name)
        elif looks_like_turns(value) or looks_like_turn(value):
            self.take_turns(value, name)
        elif isinstance(value, dict) and looks_like_turns(value.get("messages")):
            self.take_turns(value["messages"], name)
            if not is_empty(value.get("tools")):
                self._keep_tools(value["tools"], f"{name}.tools")
            note_beside(value, ("messages", "tools"), name, self.others)
        else:
            self.say("user", text_at(value, name), name)

    def take_transcript(self, said: Sequence[Message], name: str) -> None:
        """Append the turns of a transcript."""
        self.messages += [m.with_content(clean(m.content, name)) for m in said]
        self.read.append(name)

    def say(self, role: str, text: str, name: str) -> None:
        """Append a turn that was read from a field."""
        self.messages.append(Message(role, text))
        self.read.append(name)

    def take_history(self, value: Any, name: str) -> None:
        """Put earlier turns in front."""
        self.messages[:0] = self.turns(value, name)
        self.read.append(name)

    def add_passage(self, value: Any, name: str) -> None:
        """Add the passage that a prompt is about to the first question."""
        plain = isinstance(value, str | bool | int | float) or (
            isinstance(value, list) and all(isinstance(v, str) for v in value)
        )
        passage = said_at(value, name) if plain else compact(value, name)
        self.read.append(name)
        at = next((i for i, m in enumerate(self.messages) if m.role == "user"), None)
        if at is None:
            self.messages.insert(0, Message("user", passage))
            return
        asked = self.messages[at].content
        pair = (passage, asked) if name == "definition" else (asked, passage)
        both = "\n\n".join(pair) if asked.strip() and passage.strip() else asked + passage
        self.messages[at] = self.messages[at].with_content(both)

    def add_system(self, value: Any, name: str) -> None:
        """Put a system turn in front, unless there is the same one."""
        spoken = Spoken(beside=self.others)
        spoken.add(value, name, self.text_only)
        self.read.append(name)
        head = spoken.content
        for kind in ("reasoning", "calls", "results", "media"):
            self.others += [f"{name} {kind}: {held}" for held in getattr(spoken, kind)]
        given = (m.content.strip() for m in self.messages if m.role == "system")
        if head.strip() and head.strip() not in given:
            self.messages.insert(0, Message("system", head))

    def add_tools(self, value: Any, name: str) -> None:
        """Keep tool definitions. Text that is not JSON becomes a system turn."""
        self._keep_tools(value, name)
        self.read.append(name)

    def _keep_tools(self, value: Any, name: str) -> None:
        listed = from_json(value) if isinstance(value, str) else value
        if isinstance(listed, dict):
            listed = [listed]
        if isinstance(listed, list):
            listed = [from_json(t) or t if isinstance(t, str) else t for t in listed]
        if isinstance(value, str) and value.strip().lower() in ("none", "auto"):
            self.others.append(f"{name}: {value}")
            return
        if not isinstance(listed, list) or not all(isinstance(t, dict) for t in listed):
            text = value if isinstance(value, str) else compact(value, name)
            if not self.says(text, "system"):
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
        if told:  # the system turn has them already
            self.others.append(f"tools: {tools}")
        else:
            self.tools = tools

    def add_calls(self, value: Any, name: str) -> None:
        """Add tool calls to the last answer, or to a new one. Text is added to its content."""
        calls = calls_of(value, name, self.others)
        if not self.messages or self.messages[-1].role != "assistant":
            self.messages.append(Message("assistant", ""))
        last = self.messages[-1]
        if calls is None:
            said = "\n".join(t for t in (last.content, text_at(value, name)) if t)
            self.messages[-1] = last.with_content(said)
        else:
            known = set(last.calls)
            new = tuple(c for c in calls if c not in known)
            self.messages[-1] = replace(last, calls=(*last.calls, *new))
        self.read.append(name)

    def keep_beside(self, name: str) -> None:
        """Keep a field that no turn holds, for the uid only."""
        self.others.append(f"{name}: {compact(self.row[name], name)}")
        self.unread.append(name)

    def says(self, text: str, role: str) -> bool:
        """Whether a turn of this role has exactly this content."""
        text = text.strip()
        return any(m.role == role and m.content.strip() == text for m in self.messages)

    def holds(self, value: Any, name: str) -> bool:
        """Whether all turns in this value are among those that were read, each of them whole."""
        found = turns_of(value, name, self.text_only)
        mine = {m.stripped() for m in self.messages}
        tools = found.tools is None or compact(found.tools, name) == self.tools
        known = {o.partition(".")[2] for o in self.others}  # without the field's own name
        beside = all(b.partition(".")[2] in known for b in found.beside)
        return tools and beside and all(m.stripped() in mine for m in found.messages)

    def contains(self, text: str) -> bool:
        """Whether a turn's content or reasoning contains this text."""
        text = text.strip()
        return any(text in m.content or text in m.reasoning for m in self.messages)

    def reasons(self, text: str) -> bool:
        """Whether a turn has exactly this reasoning."""
        return any(m.reasoning.strip() == text.strip() for m in self.messages)

    def conversation(self) -> Conversation:
        """The conversation. Raises RowError where only system turns say anything."""
        kept, said = [], False
        for message in self.messages:
            empty = message.is_empty
            if message.role != "system":
                said = said or not empty
            elif empty and not message.media:
                continue
            kept.append(message)
        if not said:
            raise RowError("empty", "", "every user and assistant turn of this row is empty")
        return Conversation(tuple(kept), self.tools, tuple(self.media), tuple(sorted(self.others)))
