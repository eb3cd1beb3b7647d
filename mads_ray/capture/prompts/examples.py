"""Turn a conversation into token ids, with a mask of the example's own tokens.

Own tokens are those of user, assistant and tool turns, with the assistant's calls and reasoning.
The markers of the chat template, system text, tool definitions and padding are not own: a quarter
of the strongest neurons would have their peak in the fixed header.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
import numpy as np
import numpy.typing as npt

from mads_ray.capture.prompts.folding import THINK_END, Form, Piece, said
from mads_ray.capture.prompts.located import Marker, Span
from mads_ray.capture.prompts.rendering import Rendered, layout, messages_of, render
from mads_ray.capture.prompts.templates import REFUSALS, ChatTemplate, Templates, control_tokens
from mads_ray.capture.prompts.tokens import Tokeniser
from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.errors import ModelError, RowError

Tokens = Literal["all", "prompt", "response", "last"]
_FEW_TURNS = 64  # the layout of rows with at most so many turns is kept


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """Token ids `ids_T` int32 and the mask `own_T` bool (T,). `cut` tokens were removed to fit."""

    ids_T: npt.NDArray[np.int32]
    own_T: npt.NDArray[np.bool_]
    cut: int


class PromptRenderer:
    """Renders conversations with the model's chat template and tokenises them.

    Calls, reasoning and tool definitions go to the template's own fields where it has them, else
    they become text in Hermes' form. Where a template refuses a conversation or leaves out a part
    of it, system text goes in front of the next user turn, then fields become text, then tool
    results become user turns and neighbouring turns of one role are joined. A template may leave
    out the reasoning before the last question, but never that of the last answer. Without a
    template the contents are joined by blank lines.

    White space at both ends of contents, and special tokens at their end, are removed. Other text
    that spells a control token is tokenised as plain text. Templates always see the same date
    (`clock`).

    `digest` identifies the template.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, tokens: Tokens = "all") -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"{type(tokenizer).__name__} has no character offsets; a fast tokenizer is needed "
                "(a tokenizer.json beside the model)"
            )
        self._max_tokens = max_tokens
        self._tokens = tokens
        templates = Templates(tokenizer)
        control, special = control_tokens(tokenizer, templates)
        self.digest = templates.digest
        self._special = tuple(sorted(special, key=len, reverse=True))
        self._last_letters = tuple({s[-1] for s in special})
        self._tokeniser = Tokeniser(tokenizer, control, templates.usual is None)
        self._usual = _Way(templates.usual, control) if templates.usual else None
        same = templates.tools is templates.usual
        self._tools = self._usual if same else _Way(templates.tools, control)

    def text(self, conversation: Conversation) -> str:
        """The text that the template makes. Raises RowError where it leaves something out."""
        return self._render(self._stripped(conversation)).text

    def __call__(self, conversation: Conversation) -> TokenisedExample:
        """Render and tokenise. Raises RowError for rows without own tokens, or that are refused."""
        found = self._render(self._stripped(conversation))
        own, answer_at = self._own(found)
        exact = [(s.start, s.end) for s in found.spans if s.exact]
        ids_T, offsets_T2, own_T = self._tokeniser(found.text, own, exact)
        example = TokenisedExample(ids_T, own_T, 0)
        if len(ids_T) > self._max_tokens:
            answer_token = len(ids_T)
            if answer_at:
                starts_T = np.maximum.accumulate(offsets_T2[:, 0])
                answer_token = int(np.searchsorted(starts_T, answer_at))
            kept = _keep(len(ids_T), answer_token, self._max_tokens)
            example = TokenisedExample(ids_T[kept], own_T[kept], len(ids_T) - len(kept))
        if not example.own_T.any():
            whose = {"prompt": " of its prompt", "response": " of its response"}
            what = whose.get(self._tokens, "")
            raise RowError("no_own_tokens", "", f"no token of this row is its own text{what}")
        if self._tokens == "last":
            example.own_T[: np.flatnonzero(example.own_T)[-1]] = False
        return example

    def _own(self, found: Rendered) -> tuple[list[tuple[int, int]], int]:
        """The places whose tokens count, and the start of the last answer (or 0)."""
        main = ((s, found.pieces[s.unit]) for s in found.spans if s.main)
        owned = [(s, p) for s, p in main if p.owner]
        last = max((p.turn for _, p in owned if p.owner == "assistant"), default=0)
        answer_at = min((s.start for s, p in owned if last and p.turn == last), default=0)
        if self._tokens in ("prompt", "response"):
            wanted = self._tokens == "response"
            owned = [(s, p) for s, p in owned if (p.owner == "assistant") == wanted]
        return [(s.start, s.end) for s, _ in owned], answer_at

    def _stripped(self, conversation: Conversation) -> Conversation:
        messages = tuple(
            Message(m.role, self._strip(m.content), m.reasoning.strip(), m.calls, m.name, m.call_id)
            for m in conversation.messages
        )
        return Conversation(messages, conversation.tools)

    def _strip(self, text: str) -> str:
        text = text.strip()
        if not text.endswith(self._last_letters):
            return text
        end = len(text)
        while end and text.endswith(self._special, 0, end):
            end -= next(len(s) for s in self._special if text.endswith(s, 0, end))
            while end and text[end - 1].isspace():
                end -= 1
        return text[:end] or text  # a turn that consists of special tokens stays

    def _render(self, conversation: Conversation) -> Rendered:
        calls = any(m.calls for m in conversation.messages)
        way = self._tools if calls or conversation.tools else self._usual
        if way is None:
            return _joined(conversation)
        try:
            return way(conversation)
        except jinja2.TemplateError as e:
            raise RowError("chat_template", "", f"the chat template refuses it: {e}") from e


class _Way:
    """A template with its layouts: what it puts around plain turns, by their roles."""

    def __init__(self, template: ChatTemplate | None, control: dict[str, int]) -> None:
        assert template is not None
        self._template = template
        self._marker = Marker(template.constants, list(control))
        self._layout = functools.lru_cache(maxsize=1024)(
            functools.partial(layout, self._template, self._marker)
        )

    def __call__(self, conversation: Conversation) -> Rendered:
        return self._plain(conversation) or render(self._template, self._marker, conversation)

    def _plain(self, conversation: Conversation) -> Rendered | None:
        """Render by the layout of its roles; None where the template would make another text."""
        turns = conversation.messages
        if len(turns) > _FEW_TURNS or conversation.tools or not all(map(_is_plain, turns)):
            return None
        found = self._layout(tuple(m.role for m in turns))
        if found is None:
            return None
        if self._template.splits_reasoning and any(THINK_END in m.content for m in turns):
            return None
        pieces = [
            Piece(m.content, "system" if m.role == "system" else "text", i + 1, m.role)
            for i, m in enumerate(turns)
        ]
        parts, spans, at = [found.parts[0]], [], len(found.parts[0])
        for part, i in zip(found.parts[1:], found.order, strict=True):
            content = turns[i].content
            spans.append(Span(at, at + len(content), i))
            parts += [content, part]
            at += len(content) + len(part)
        text = "".join(parts)
        if self._template.only_prints_contents:
            return Rendered(text, pieces, spans)
        try:
            real = self._template.render(*messages_of(self._template, turns, found.form))
        except REFUSALS:
            return None
        return Rendered(text, pieces, spans) if real == text else None


def _is_plain(m: Message) -> bool:
    return bool(m.content) and not (m.reasoning or m.calls or m.name or m.call_id)


def _joined(conversation: Conversation) -> Rendered:
    """Without a template: contents joined by blank lines."""
    parts: list[str] = []
    pieces: list[Piece] = []
    spans: list[Span] = []
    at = 0
    for number, turn in enumerate(said(conversation, Form()).turns):
        for piece in [Piece("\n\n", "frame")] * (number > 0) + turn.pieces:
            if piece.kind != "frame":
                spans.append(Span(at, at + len(piece.text), len(pieces)))
                pieces.append(piece)
            parts.append(piece.text)
            at += len(piece.text)
    return Rendered("".join(parts), pieces, spans)


def _keep(length: int, answer: int, limit: int) -> npt.NDArray[np.int64]:
    """The `limit` token positions that stay of a longer row.

    The middle of the prompt is cut first, then the end of the answer. The answer gets the room that
    the prompt does not need, and at least half of the limit if it is that long.
    """
    answer_kept = min(length - answer, max(limit - answer, limit // 2))
    prompt_kept = min(answer, limit - answer_kept)
    head = (prompt_kept + 1) // 2
    tail = prompt_kept - head
    return np.concatenate(
        [np.arange(head), np.arange(answer - tail, answer), np.arange(answer, answer + answer_kept)]
    )
