"""Show the text that a model gets of a conversation, with the example's own text marked."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.corpus.conversation import Conversation
from mads_ray.errors import RowError
from mads_ray.printable import one_line

if TYPE_CHECKING:
    from mads_ray.config import CaptureConfig

_TEXT = 240


def shower(capture: CaptureConfig) -> Callable[[Conversation], str]:
    """`marked` for one model. Only its tokenizer is loaded. Raises ModelError."""
    from mads_ray.capture.model import load_tokenizer, locate

    tokenizer = load_tokenizer(locate(capture.model, capture.revision, capture.dtype))
    renderer = PromptRenderer(tokenizer, capture.max_tokens, capture.token_scope)
    return lambda conversation: marked(renderer, tokenizer, conversation)


def marked(renderer: PromptRenderer, tokenizer: Any, conversation: Conversation) -> str:
    """The tokens as text, with own ones between « and », or why the row would go to quarantine."""
    try:
        example = renderer(conversation)
    except RowError as e:
        return f"would quarantine: {e.reason}: {one_line(e.message)}"
    parts = []
    at = 0
    for own, run in groupby(example.own_T.tolist()):
        end = at + len(list(run))
        text = _cut(tokenizer.decode(example.ids_T[at:end]))
        parts.append(f"«{text}»" if own else text)
        at = end
    n_own = int(example.own_T.sum())
    cut = f", {example.cut:,} cut" if example.cut else ""
    return f"{len(example.ids_T):,} tokens, {n_own:,} of them own{cut}\n{''.join(parts)}"


def _cut(text: str) -> str:
    if len(text) > _TEXT:
        text = f"{text[: _TEXT // 2]} ... {text[-_TEXT // 3 :]}"
    return "\n".join(one_line(line) for line in text.split("\n"))
