"""Render a conversation through any chat template, and find the place of each piece.

Several forms are tried until the rendered text holds all of the conversation: first the template's
own form, then system text in user turns, then text in place of the template's fields, then
alternating user and assistant turns, and at last contents that the template cannot look into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mads_ray.capture.prompts.folding import Form, Piece, Talk, said
from mads_ray.capture.prompts.located import Marker, Span, locate
from mads_ray.capture.prompts.templates import REFUSALS, ChatTemplate
from mads_ray.capture.prompts.writing import Copies, Messages, Real, Writer
from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.errors import RowError


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of a row, its pieces, and their places in order."""

    text: str
    pieces: list[Piece]
    spans: list[Span]
    form: Form | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The text that a form puts around plain turns: `parts[i]`, turn `order[i]`, `parts[i + 1]`."""

    parts: list[str]
    order: list[int]
    form: Form


@dataclass(frozen=True, slots=True)
class _Missing:
    piece: Piece | None  # None where it is not known which one


def forms(template: ChatTemplate, conversation: Conversation) -> Iterator[Form]:
    """Yield the forms to try, the most natural one first."""
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
    """Render in the first form that shows all of it.

    Raises RowError where no form does, or the last error of the template.
    """
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
    """The layout of plain turns with these roles; None where it depends on contents."""
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
    """Plain turns, as dicts for a template."""
    if not (form.fold_system or form.fold_roles):
        return [{"role": m.role, "content": m.content} for m in turns], []
    return Writer(template, said(Conversation(tuple(turns)), form)).messages(Real())


def attempt(template: ChatTemplate, marker: Marker, talk: Talk) -> Rendered | _Missing:
    """Render twice and compare. Raises one of REFUSALS."""
    hidden = any(p.hidden for t in talk.turns for p in t.pieces)
    writer = Writer(template, talk)
    text = template.render(*writer.messages(Real()))
    copies = Copies(marker)
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
    """Put the text of hidden pieces in place of their characters."""
    parts: list[str] = []
    moved: list[Span] = []
    at = done = 0
    for span in spans:
        piece = pieces[span.unit]
        parts.append(text[done : span.start])
        at += span.start - done
        shown = piece.text if piece.hidden else text[span.start : span.end]
        moved.append(span._replace(start=at, end=at + len(shown)))
        parts.append(shown)
        at += len(shown)
        done = span.end
    parts.append(text[done:])
    return Rendered("".join(parts), pieces, moved)
