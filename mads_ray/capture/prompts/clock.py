"""The day on which every chat template renders.

Some templates (Llama 3, gpt-oss, Mistral Small) print today's date. States of one row must be the
same on every day, so the clock stands still; the manifest of the states names the day.
"""

from __future__ import annotations

from datetime import datetime

FROZEN = datetime(2024, 7, 26)  # the day that Llama 3 falls back to
DATE = FROZEN.date().isoformat()


def strftime_now(pattern: str) -> str:
    """What templates call to print the date."""
    return FROZEN.strftime(pattern)
