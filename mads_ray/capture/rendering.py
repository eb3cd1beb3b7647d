"""A conversation through a chat template, with the place of each piece, whatever the template does.

Forms are tried in turn until all of the conversation is in what was rendered: first as the
template would have it, then with system text in user turns, then with text in place of the
template's fields, then with alternating user and assistant turns, and at last with contents that
the template cannot look into.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mads_ray.capture.folding import Form, Piece, Talk, Turn, said, spaced
from mads_ray.capture.located import Marker, Span, Unit, locate
from mads_ray.capture.templates import REFUSALS, ChatTemplate, call_message
from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.errors import RowError

Messages = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # and tool definitions
_HIDDEN = "\ue000"  # its place is known from the copy, so that a row may hold it too


@dataclass(frozen=True, slots=True)
class Rendered:
    """Text of a row, the pieces it was made of, and where these lie, in order."""

    text: str
    pieces: list[Piece]
    spans: list[Span]
    form: Form | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What a form puts around the contents of plain turns: `parts[i]`, turn `order[i]`, ..."""

    parts: list[str]
    order: list[int]
    form: Form


@dataclass(frozen=True, slots=True)
class _Missing:
    piece: Piece | None  # None where the pieces cannot be told apart


def forms(template: ChatTemplate, conversation: Conversation) -> Iterator[Form]:
    """Ways to say it, the most natural one first."""
    fields = template.fields
    own = Form(tools=fields.tools, calls=bool(fields.calls), reasoning=bool(fields.reasoning))
    yield own
    if any(m.role == "system" for m in conversation.messages):
        yield replace(own, fold_system=True)
    yield Form(hide_reasoning=True)
    yield Form(hide_reasoning=True, fold_roles=True)
    yield Form(hide_reasoning=True, hide=True)
    yield Form(hide_reasoning=True, fold_roles=True, hide=True)


def render(template: ChatTemplate, marker: Marker, conversation: Conversation) -> Rendered:
    """Raises RowError where no form shows all of it, or what the template raised at last."""
    missing: _Missing | None = None
    refusal: BaseException | None = None
    tried: set[Form] = set()
    for form in forms(template, conversation):
        if form in tried:
            continue
        tried.add(form)
        talk = said(conversation, form, template.splits_reasoning)
        try:
            found = attempt(template, marker, talk)
        except REFUSALS as e:
            refusal, missing = e, None
            continue
        if isinstance(found, Rendered):
            return replace(found, form=form)
        refusal, missing = None, found
    if missing is not None:
        what = missing.piece.where if missing.piece else "something"
        raise RowError("chat_template", "", f"the chat template leaves out {what}")
    assert refusal is not None
    raise refusal


def layout(template: ChatTemplate, marker: Marker, roles: Sequence[str]) -> Layout | None:
    """Of plain turns with these roles; None where it takes the contents to tell."""
    turns = [Message(role, f"zq{i}") for i, role in enumerate(roles)]
    try:
        found = render(template, marker, Conversation(tuple(turns)))
    except (RowError, *REFUSALS):
        return None
    order = [found.pieces[s.unit].turn - 1 for s in found.spans]
    shown = [found.text[s.start : s.end] for s in found.spans]
    form = found.form
    if form is None or form.hide or shown != [turns[i].content for i in order]:
        return None
    edges = [0, *(x for s in found.spans for x in (s.start, s.end)), len(found.text)]
    parts = [found.text[a:b] for a, b in zip(edges[0::2], edges[1::2], strict=True)]
    return Layout(parts, order, form) if len(order) == len(turns) else None


def messages_of(template: ChatTemplate, turns: Sequence[Message], form: Form) -> Messages:
    """Plain turns as a template reads them."""
    if not (form.fold_system or form.fold_roles):
        return [{"role": m.role, "content": m.content} for m in turns], []
    return _Writer(template, said(Conversation(tuple(turns)), form)).messages(_Real())


def attempt(template: ChatTemplate, marker: Marker, talk: Talk) -> Rendered | _Missing:
    """Render twice and compare; raises one of REFUSALS."""
    hidden = any(p.hidden for t in talk.turns for p in t.pieces)
    writer = _Writer(template, talk)
    text = template.render(*writer.messages(_Real()))
    copies = _Copies(marker)
    copy = template.render(*writer.messages(copies))
    found = locate(text, copy, copies.units)
    if found is None:
        return _Missing(None)
    spans, shown = found
    for unit, count in zip(copies.units, shown.tolist(), strict=True):
        if unit.piece.needed and count < unit.codes:
            return _Missing(unit.piece)
    pieces = [u.piece for u in copies.units]
    return _reveal(text, pieces, spans) if hidden else Rendered(text, pieces, spans)


def _reveal(text: str, pieces: list[Piece], spans: Sequence[Span]) -> Rendered:
    """Put the hidden pieces' text where their characters stand."""
    parts: list[str] = []
    moved: list[Span] = []
    at = done = 0
    for span in spans:
        piece = pieces[span.unit]
        parts.append(text[done : span.start])
        at += span.start - done
        shown = piece.text if piece.hidden else text[span.start : span.end]
        moved.append(Span(at, at + len(shown), span.unit, span.exact))
        parts.append(shown)
        at += len(shown)
        done = span.end
    parts.append(text[done:])
    return Rendered("".join(parts), pieces, moved)


class _Real:
    """Text as it is, hidden text as one character."""

    def text(self, piece: Piece) -> str:
        return _HIDDEN if piece.hidden else piece.text

    def label(self, text: str) -> str:
        return text

    def call(self, piece: Piece, arguments: Any, tail: str) -> tuple[str, Any]:
        return piece.text, arguments

    def tools(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return tools


class _Copies:
    """Text in codes; remembers the units in the order in which they were asked for."""

    def __init__(self, marker: Marker) -> None:
        self._marker = marker
        self.units: list[Unit] = []

    def text(self, piece: Piece) -> str:
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
        """Of a name or an id only control tokens are told from the template's."""
        self.units.append(Unit(Piece(text, "frame", needed=False), ""))
        return self._marker.control(text, len(self.units) - 1)

    def call(self, piece: Piece, arguments: Any, tail: str) -> tuple[str, Any]:
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
        return [self._tool(tool) for tool in tools]

    def _tool(self, tool: dict[str, Any]) -> dict[str, Any]:
        """Its name must be shown; control tokens in other texts are told from the template's."""
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


_Waiting = OrderedDict[str, str]  # calls that wait for a result: id and name


class _Writer:
    """Turns as the dicts that a template reads."""

    def __init__(self, template: ChatTemplate, talk: Talk) -> None:
        self._fields = template.fields
        self._talk = talk
        self._ids: dict[str, str] = {}

    def messages(self, way: _Real | _Copies) -> Messages:
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
        self, way: _Real | _Copies, message: dict[str, Any], turn: Turn, waiting: _Waiting
    ) -> None:
        """Name the call that a result answers, by its id or else by its place."""
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

    def _call(self, way: _Real | _Copies, piece: Piece, stored: str) -> tuple[str, Any]:
        text = spaced(stored)
        arguments: Any = text
        if self._fields.calls == "object":
            try:
                arguments = json.loads(text)
            except ValueError:
                arguments = text
        return way.call(piece, arguments, text)
