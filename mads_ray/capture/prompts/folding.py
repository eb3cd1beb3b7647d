"""Write a conversation as turns for a template. What it has no field for becomes text.

Reasoning becomes `<think>` text in front of the answer, calls and tool definitions become text in
Hermes' words, and results without a tool turn become `<tool_response>` text of a user turn. Torch
is not imported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mads_ray.corpus.conversation import Conversation, Message, ToolCall

Kind = Literal["text", "reasoning", "call", "system", "tools", "frame"]
THINK_END = "</think>"
_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n",
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that must be found in what the template rendered.

    `turn` counts the row's turns from 1 (0: none of them). A piece of kind `frame` is our own text:
    it is no own text of the row and need not be found. `hidden` text is put in after rendering, so
    that no template can cut it.
    """

    text: str
    kind: Kind
    turn: int = 0
    role: str = ""
    needed: bool = True
    hidden: bool = False

    @property
    def owner(self) -> str:
        """The role whose own text this is; "" where it is no own text."""
        return self.role if self.kind in ("text", "reasoning", "call") else ""

    @property
    def where(self) -> str:
        """What this piece is, for messages to the user."""
        if self.kind == "tools":
            return "the tool definitions"
        what = {"reasoning": "the reasoning", "call": "a call"}.get(self.kind, "the text")
        return f"{what} of turn {self.turn} ({self.role})"


@dataclass(slots=True)
class Turn:
    """One turn for a template. Its content is `pieces`, joined."""

    role: str
    pieces: list[Piece]
    reasoning: Piece | None = None
    calls: list[tuple[Piece, ToolCall]] = field(default_factory=list)
    name: str = ""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """How to write what a template may have no field for. `hide`: show it none of the text."""

    tools: bool = False  # in the template's own field
    calls: bool = False
    reasoning: bool = False
    fold_system: bool = False
    fold_roles: bool = False
    hide_reasoning: bool = False
    hide: bool = False


@dataclass(slots=True)
class Talk:
    """Turns in one form, and tool definitions where the template has a field for them."""

    turns: list[Turn]
    tools: list[dict[str, Any]]


def said(conversation: Conversation, form: Form, splits_reasoning: bool = False) -> Talk:
    """Write the conversation in this form. Contents stay as they are.

    The reasoning of the last assistant turn is needed where no user turn follows. Many templates
    leave out the reasoning of earlier turns on purpose. With `splits_reasoning`, text up to a
    `</think>` in an assistant's content is reasoning, too.
    """
    messages = conversation.messages
    last = next((i for i in reversed(range(len(messages))) if messages[i].role == "assistant"), -1)
    if any(m.role == "user" for m in messages[last + 1 :]):
        last = -1
    turns = [
        _turn(m, i + 1, form, i == last, splits_reasoning and m.role == "assistant")
        for i, m in enumerate(messages)
    ]
    definitions = definitions_of(conversation.tools) if form.tools else []
    if conversation.tools and not definitions:
        _add_tools(turns, conversation.tools)
    if form.fold_roles:
        turns = _fold_roles(turns)
    elif form.fold_system:
        turns = _fold_system(turns)
    if form.hide:
        for turn in turns:
            turn.pieces = [p if p.kind == "frame" else replace(p, hidden=True) for p in turn.pieces]
    return Talk(turns, definitions)


def _turn(m: Message, number: int, form: Form, last: bool, splits: bool) -> Turn:
    turn = Turn(m.role, [], name=m.name, call_id=m.call_id)

    def piece(text: str, kind: Kind, needed: bool = True) -> Piece:
        hidden = kind == "reasoning" and needed and form.hide_reasoning
        return Piece(text, kind, number, m.role, needed, hidden)

    if m.reasoning:
        thought = piece(m.reasoning, "reasoning", last)
        if form.reasoning:
            turn.reasoning = thought
        else:
            tags = [
                Piece(t, "frame", hidden=thought.hidden) for t in ("<think>\n", "\n</think>\n\n")
            ]
            turn.pieces += [tags[0], thought, tags[1]]
    content = m.content
    if splits and THINK_END in content:
        end = content.rindex(THINK_END) + len(THINK_END)
        end += len(content[end:]) - len(content[end:].lstrip())
        thought_text, content = content[:end], content[end:]
        bare = thought_text.replace("<think>", "").replace(THINK_END, "").strip()
        turn.pieces.append(
            piece(thought_text, "reasoning", last) if bare else Piece(thought_text, "frame")
        )
    if content:
        turn.pieces.append(piece(content, "system" if m.role == "system" else "text"))
    before = "\n" if m.content else ""
    for call in m.calls:
        if form.calls:
            turn.calls.append((piece(call.name, "call"), call))
        else:
            turn.pieces += _call_pieces(call, before, number, m.role)
            before = "\n"
    return turn


def _call_pieces(call: ToolCall, before: str, number: int, role: str) -> list[Piece]:
    name = json.dumps(call.name, ensure_ascii=False)[1:-1]
    own = f'{name}", "arguments": {spaced(call.arguments)}'
    return [
        Piece(f'{before}<tool_call>\n{{"name": "', "frame"),
        Piece(own, "call", number, role),
        Piece("}\n</tool_call>", "frame"),
    ]


def spaced(arguments: str) -> str:
    """JSON text with the usual spaces. Other text stays as it is."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False) if arguments else "{}"
    except (ValueError, RecursionError):
        return arguments


def definitions_of(tools: str) -> list[dict[str, Any]]:
    """Tool definitions as templates expect them; [] where they are not a list of objects."""
    try:
        stored = json.loads(tools) if tools else []
    except (ValueError, RecursionError):
        return []
    if not isinstance(stored, list) or not all(isinstance(t, dict) for t in stored):
        return []
    return [_definition(t) for t in stored]


def _definition(tool: dict[str, Any]) -> dict[str, Any]:
    if "function" in tool or "name" not in tool:
        return tool
    named = {("parameters" if k == "input_schema" else k): v for k, v in tool.items()}
    named.pop("type", None)
    return {"type": "function", "function": named}


def _tools_pieces(tools: str) -> list[Piece]:
    definitions = definitions_of(tools)
    lines = "\n".join(json.dumps(t, ensure_ascii=False) for t in definitions) or tools
    return [Piece(_TOOLS[0], "frame"), Piece(lines, "tools"), Piece(_TOOLS[1], "frame")]


def _add_tools(turns: list[Turn], tools: str) -> None:
    if not turns or turns[0].role != "system":
        turns.insert(0, Turn("system", []))
    gap = [Piece("\n\n", "frame")] if turns[0].pieces else []
    turns[0].pieces += gap + _tools_pieces(tools)


def _join(turn: Turn, more: Turn) -> None:
    """Join two turns. No field of joined turns holds calls or reasoning."""
    gap = [Piece("\n\n", "frame")] if turn.pieces and more.pieces else []
    turn.pieces += gap + more.pieces


def _fold_system(turns: Sequence[Turn]) -> list[Turn]:
    """Put system text at the start of the next user turn, or make it a user turn."""
    folded: list[Turn] = []
    open_end = False  # whether the last turn is system text without a user turn yet
    for turn in turns:
        system = turn.role == "system"
        if open_end and (system or turn.role == "user"):
            _join(folded[-1], turn)
        elif system and turn.pieces:
            folded.append(replace(turn, role="user"))
        elif not system:
            folded.append(turn)
        open_end = system and (bool(turn.pieces) or open_end)
    return folded


def _fold_roles(turns: Sequence[Turn]) -> list[Turn]:
    """Make user and assistant turns alternate. System text and tool results go to the user."""
    folded: list[Turn] = []
    for turn in turns:
        role = turn.role if turn.role == "assistant" else "user"
        if turn.role == "system" and not turn.pieces:
            continue
        pieces = turn.pieces
        if turn.role == "tool":
            frames = [Piece(t, "frame") for t in ("<tool_response>\n", "\n</tool_response>")]
            pieces = [frames[0], *pieces, frames[1]]
        plain = replace(turn, role=role, pieces=list(pieces), name="", call_id="")
        if folded and folded[-1].role == role:
            _join(folded[-1], plain)
        else:
            folded.append(plain)
    if folded and folded[0].role == "assistant":
        folded.insert(0, Turn("user", []))
    return folded
