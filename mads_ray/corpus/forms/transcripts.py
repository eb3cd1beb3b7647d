"""A conversation in one text of "Human:" and "Assistant:" paragraphs."""

from __future__ import annotations

import re

from mads_ray.corpus.conversation import Message

_TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):[ ]?")


def transcript(text: str) -> list[Message] | None:
    """Read a text of "Human:" and "Assistant:" paragraphs as turns; None for any other text."""
    if not text.startswith("\n\nHuman:"):
        return None
    _, *rest = _TRANSCRIPT.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    said = [Message(roles[r], t) for r, t in zip(rest[0::2], rest[1::2], strict=True)]
    return said[:-1] if said[-1].role == "assistant" and said[-1].is_empty else said
