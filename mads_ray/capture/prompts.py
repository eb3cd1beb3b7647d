"""Conversation to token ids, with a mask of the example's own tokens.

Own tokens are those of user, assistant and tool contents. The chat template's markers, the system
prompt and padding are not: a quarter of the strongest neurons would peak in the fixed header.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
import numpy as np
import numpy.typing as npt

from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.errors import ModelError, RowError

# Private-use characters mark where the template puts each message's content.
_MARK = re.compile("\ue0f0([0-9]+)\ue0f1")
Tokens = Literal["all", "prompt", "response", "last"]


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a message's content lies in the text, and whose it is."""

    start: int
    end: int
    role: str


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """`ids_T` int32 and `own_T` bool of equal length; `cut` tokens were removed to fit."""

    ids_T: npt.NDArray[np.int32]
    own_T: npt.NDArray[np.bool_]
    cut: int


class PromptRenderer:
    """Renders conversations with the model's chat template and tokenises them.

    Without a template the contents are joined by blank lines. Templates that refuse a sequence of
    roles (no system role, strict alternation) get it folded: system text goes in front of the next
    user turn, neighbours of one role are joined.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, tokens: Tokens = "all") -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                f"{type(tokenizer).__name__} has no character offsets; a fast tokenizer is needed "
                "(a tokenizer.json beside the model)"
            )
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._tokens = tokens
        self._has_template = tokenizer.chat_template is not None
        self._pieces = functools.lru_cache(maxsize=1024)(self._render_pieces)

    def __call__(self, conversation: Conversation) -> TokenisedExample:
        """Raises RowError when no token of the row is its own or the template refuses it."""
        text, spans, answer_at = self._render(conversation.messages)
        encoded = self._tokenizer(
            text, add_special_tokens=not self._has_template, return_offsets_mapping=True
        )
        ids_T = np.asarray(encoded["input_ids"], np.int32)
        offsets = np.asarray(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        own_T = np.zeros(len(ids_T), np.bool_)
        for span in spans:
            if self._counts(span):
                own_T |= (offsets[:, 0] < span.end) & (offsets[:, 1] > span.start)
        own_T &= offsets[:, 1] > offsets[:, 0]
        answer_token = int(np.searchsorted(offsets[:, 0], answer_at)) if answer_at else len(ids_T)
        kept = _keep(len(ids_T), answer_token, self._max_tokens)
        example = TokenisedExample(ids_T[kept], own_T[kept], len(ids_T) - len(kept))
        if not example.own_T.any():
            whose = {"prompt": " of its prompt", "response": " of its response"}
            what = whose.get(self._tokens, "")
            raise RowError("no_own_tokens", "", f"no token of this row is its own text{what}")
        if self._tokens == "last":
            example.own_T[: np.flatnonzero(example.own_T)[-1]] = False
        return example

    def _counts(self, span: _Span) -> bool:
        if self._tokens in ("prompt", "response"):
            return (span.role == "assistant") == (self._tokens == "response")
        return True

    def _render(self, messages: Sequence[Message]) -> tuple[str, list[_Span], int]:
        turns = [Message(m.role, m.content.strip()) for m in messages]
        if not self._has_template:
            return _assemble(["", *["\n\n"] * (len(turns) - 1), ""], range(len(turns)), turns)
        try:
            pieces, order = self._pieces(tuple(m.role for m in turns))
        except jinja2.TemplateError:
            turns = _fold(turns)
            try:
                pieces, order = self._pieces(tuple(m.role for m in turns))
            except jinja2.TemplateError as e:
                raise RowError("chat_template", "", f"the chat template refuses it: {e}") from e
        return _assemble(pieces, order, turns)

    def _render_pieces(self, roles: tuple[str, ...]) -> tuple[list[str], list[int]]:
        """What the template puts around the contents, which depends on the roles alone."""
        marked = [{"role": r, "content": f"\ue0f0{i}\ue0f1"} for i, r in enumerate(roles)]
        text = self._tokenizer.apply_chat_template(marked, tokenize=False)
        split = _MARK.split(text)
        return split[0::2], [int(i) for i in split[1::2]]


def _assemble(
    pieces: Sequence[str], order: Sequence[int], turns: Sequence[Message]
) -> tuple[str, list[_Span], int]:
    """Fill contents in; return the text, the own spans and where the last answer starts (or 0)."""
    parts, spans, answer_at, at = [pieces[0]], [], 0, len(pieces[0])
    for piece, i in zip(pieces[1:], order, strict=True):
        content = turns[i].content
        if turns[i].role != "system" and content:
            spans.append(_Span(at, at + len(content), turns[i].role))
            if turns[i].role == "assistant":
                answer_at = at
        parts += [content, piece]
        at += len(content) + len(piece)
    return "".join(parts), spans, answer_at


def _fold(turns: Sequence[Message]) -> list[Message]:
    folded: list[Message] = []
    pending = ""
    for turn in turns:
        role = "user" if turn.role == "tool" else turn.role
        if role == "system":
            pending = f"{pending}\n\n{turn.content}".strip()
            continue
        content = f"{pending}\n\n{turn.content}".strip() if role == "user" else turn.content
        pending = "" if role == "user" else pending
        if folded and folded[-1].role == role:
            content = f"{folded.pop().content}\n\n{content}".strip()
        folded.append(Message(role, content))
    if folded and folded[0].role == "assistant":
        folded.insert(0, Message("user", pending))
    return folded


def _keep(length: int, answer: int, limit: int) -> npt.NDArray[np.int64]:
    """Token positions that stay: the middle of the prompt goes first, then the answer's tail.

    The answer keeps what the prompt leaves free, and never less than half of the limit if it is
    that long.
    """
    if length <= limit:
        return np.arange(length)
    answer_kept = min(length - answer, max(limit - answer, limit // 2))
    prompt_kept = min(answer, limit - answer_kept)
    head = (prompt_kept + 1) // 2
    tail = prompt_kept - head
    return np.concatenate(
        [np.arange(head), np.arange(answer - tail, answer), np.arange(answer, answer + answer_kept)]
    )
