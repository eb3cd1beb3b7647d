"""Write turns as dicts for a template: with their real text, or with copies of it in codes."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from mads_ray.capture.prompts.folding import Piece, Talk, Turn, spaced
from mads_ray.capture.prompts.located import Marker, Unit
from mads_ray.capture.prompts.templates import ChatTemplate, call_message

Messages = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # and tool definitions
_HIDDEN = "\ue000"  # the copy shows its place, so a row may hold this character too


class Real:
    """Writes text as it is, and hidden text as one character."""

    def text(self, piece: Piece) -> str:
        """Content or reasoning."""
        return _HIDDEN if piece.hidden else piece.text

    def label(self, text: str) -> str:
        """A name or an id."""
        return text

    def call(self, piece: Piece, arguments: Any, tail: str) -> tuple[str, Any]:
        """A call's name and arguments; `tail` is their usual JSON text."""
        return piece.text, arguments

    def tools(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tool definitions."""
        return tools


class Copies:
    """Writes text in codes, and keeps the units in the order of the calls."""

    def __init__(self, marker: Marker) -> None:
        self._marker = marker
        self.units: list[Unit] = []

    def text(self, piece: Piece) -> str:
        """Content or reasoning."""
        if piece.kind == "frame" and not piece.hidden:
            return piece.text
        number = len(self.units)
        unit = Unit(piece, _HIDDEN if piece.hidden else piece.text)
        self.units.append(unit)
        unit.copy = self._marker.copy(unit.text, number)
        unit.codes = _codes(unit.copy)
        if not unit.codes:
            unit.copy, unit.codes, unit.wrapped = self._marker.wrap(unit.text, number), 2, True
        return unit.copy

    def label(self, text: str) -> str:
        """A name or an id. Only control tokens in it become codes."""
        self.units.append(Unit(Piece(text, "frame", needed=False), ""))
        return self._marker.control(text, len(self.units) - 1)

    def call(self, piece: Piece, arguments: Any, tail: str) -> tuple[str, Any]:
        """A call's name and arguments; `tail` is their usual JSON text."""
        number = len(self.units)
        unit = Unit(piece, piece.text, whole=True, tail=tail)
        self.units.append(unit)
        name = self._marker.letters(piece.text, number)
        changed = _leaves(
            arguments,
            lambda s: self._marker.copy(s, number),
            lambda s: self._marker.control(s, number),
        )
        leaves = list(_scalars(changed))
        unit.codes = _codes(name) + sum(_codes(v) for v in leaves if isinstance(v, str))
        texts = [i for i, v in enumerate(leaves) if isinstance(v, str)]
        unit.last = [json.dumps(v) for v in leaves[texts[-1] + 1 if texts else 0 :]]
        return name, changed

    def tools(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tool definitions."""
        return [self._tool(tool) for tool in tools]

    def _tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        """A tool definition. Its name must be shown; control tokens in other texts become codes."""
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, dict) else None
        number = len(self.units)
        named = Unit(Piece(name if isinstance(name, str) else "", "tools"), "", whole=True)
        other = Unit(Piece("", "tools", needed=False), "")
        self.units += [named, other]

        def control(text: str) -> str:
            return self._marker.control(text, number + 1)

        changed: dict[str, Any] = _leaves(tool, control, control)
        if named.piece.text:
            named.copy = self._marker.letters(named.piece.text, number)
            named.codes = _codes(named.copy)
            changed.get("function", changed)["name"] = named.copy
        return changed


def _codes(copy: str) -> int:
    return 0 if copy.isascii() else sum(c >= "\U000f0000" for c in copy)


def _leaves(value: Any, change: Callable[[str], str], change_key: Callable[[str], str]) -> Any:
    """The same JSON value with its strings changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change_key(k): _leaves(v, change, change_key) for k, v in value.items()}
    if isinstance(value, list):
        return [_leaves(v, change, change_key) for v in value]
    return value


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        for v in value.values() if isinstance(value, dict) else value:
            yield from _scalars(v)
    else:
        yield value


_Waiting = OrderedDict[str, str]  # calls without a result yet: id and name


class Writer:
    """Writes turns as dicts for a template."""

    def __init__(self, template: ChatTemplate, talk: Talk) -> None:
        self._fields = template.fields
        self._talk = talk
        self._ids: dict[str, str] = {}

    def messages(self, way: Real | Copies) -> Messages:
        """The turns and the tool definitions. A result names the call that it answers."""
        messages: list[dict[str, Any]] = []
        waiting = _Waiting()
        number = 0
        for turn in self._talk.turns:
            message: dict[str, Any] = {"role": turn.role}
            if turn.reasoning is not None:
                message[self._fields.reasoning] = way.text(turn.reasoning)
            message["content"] = "".join(map(way.text, turn.pieces))
            if turn.calls:
                message["tool_calls"] = calls = []
                waiting = _Waiting()
                for piece, call in turn.calls:
                    number += 1
                    call_id = self._id(call.id, number)
                    waiting[call_id] = call.name
                    said_call = self._call(way, piece, call.arguments)
                    calls.append(call_message(*said_call, way.label(call_id)))
            self._answer(way, message, turn, waiting)
            messages.append(message)
        return messages, way.tools(self._talk.tools)

    def _id(self, stored: str, number: int) -> str:
        if stored and not self._fields.short_ids:
            return stored
        return self._ids.setdefault(stored or f"\0{number}", f"{number:09d}")

    def _answer(
        self, way: Real | Copies, message: dict[str, Any], turn: Turn, waiting: _Waiting
    ) -> None:
        """Name the call that a result answers: by its id, else by its position."""
        name, call_id = turn.name, self._ids.get(turn.call_id, turn.call_id)
        if turn.role == "tool" and waiting:
            if not call_id:
                call_id, called = waiting.popitem(last=False)
            else:
                called = waiting.pop(call_id, "")
            name = name or called
        if name:
            message["name"] = way.label(name)
        if call_id:
            message["tool_call_id"] = way.label(call_id)

    def _call(self, way: Real | Copies, piece: Piece, stored: str) -> tuple[str, Any]:
        text = spaced(stored)
        arguments: Any = text
        if self._fields.calls == "object":
            try:
                arguments = json.loads(text)
            except ValueError:
                arguments = text
        return way.call(piece, arguments, text)
