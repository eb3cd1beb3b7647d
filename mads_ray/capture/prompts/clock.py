"""The day on which every chat template renders.

Some templates (Llama 3, gpt-oss, Mistral Small) print today's date. The states of a row must be the
same every day, so templates always get this day. The manifest of the states names it.
"""

from __future__ import annotations

from datetime import datetime

FROZEN = datetime(2024, 7, 26)  # the default day of Llama 3's template
DATE = FROZEN.date().isoformat()


def strftime_now(pattern: str) -> str:
    """The date in this pattern. Templates call it."""
    return FROZEN.strftime(pattern)
