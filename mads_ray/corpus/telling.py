"""Say in a few lines how a corpus was read. The most frequent comes first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mads_ray.corpus.examples import Rules
from mads_ray.corpus.tally import MEDIA, OTHERS, Refused, Tally, short
from mads_ray.printable import one_line

_REASONS = 5
_NAMES = 8
_MESSAGE = 120
_MUCH = 0.2
_REQUIRED = ("messages", "prompt", "response")


def lines(tally: Tally, rules: Rules, refused: str = "quarantined") -> list[str]:
    """The lines below the counts. `refused`: the word for rows that were not read."""
    told = [f"{refused} {reason_text(r)}" for r in tally.reasons()[:_REASONS]]
    if rest := tally.reasons()[_REASONS:]:
        told.append(f"{refused} {sum(r.count for r in rest):,} for {len(rest)} other reasons")
    media = [r for r in tally.reasons() if r.reason == MEDIA]
    if media and not rules.text_only:
        rows = sum(r.count for r in media)
        told.append(
            f"{rows:,} rows have images, audio or video ({names({r.field: r.count for r in media})}"
            f"): {refused}; --text-only keeps them without"
        )
    if tally.without_media:
        told.append(f"{tally.without_media:,} rows were read without images, audio or video")
    told += [
        f"{title}: {names(counts)}"
        for title, counts in (
            ("read as", tally.schemas),
            ("not read", tally.unread),
            ("other fields, no part of an example", tally.other),
        )
        if counts
    ]
    return told


def reason_text(found: Refused) -> str:
    """Count, reason, field and first row, as text."""
    field = f" ({found.field})" if found.field else ""
    return one_line(
        f"{found.count:,} {found.reason}{field}: {nearest(found.file)} row {found.row}: "
        f"{short(found.message, _MESSAGE)}"
    )


def names(counts: Mapping[str, int]) -> str:
    """Names with counts, such as `messages 650, prompt + completion 70, and 3 more`."""
    ranked = sorted(counts.items(), key=lambda item: (item[0] == OTHERS, -item[1], item[0]))
    told = [f"{one_line(name)} {rows:,}" for name, rows in ranked[:_NAMES]]
    more = [f"and {len(ranked) - _NAMES} more"] if len(ranked) > _NAMES else []
    return ", ".join(told + more)


def warnings(
    tally: Tally, rules: Rules, worst: Mapping[str, Any] | None, quarantine: str
) -> list[str]:
    """What the user should act on.

    `worst`: the file with most rows in quarantine (file, read, quarantined). `quarantine`: the
    folder to look at.
    """
    told = unfound(tally, rules)
    rows = tally.usable + tally.quarantined
    if worst is not None and tally.quarantined > _MUCH * rows:
        file = nearest(worst["file"])
        told.append(
            f"{tally.quarantined / rows:.0%} of all rows are in quarantine, most of them from "
            f"{one_line(file)} ({worst['quarantined']:,} of its {worst['read']:,} rows). "
            f"See {quarantine} and: mads-ray inspect --input {one_line(file)}; columns with names "
            "of your own need --field prompt=... --field response=..."
        )
    return told


def unfound(tally: Tally, rules: Rules) -> list[str]:
    """Entries of the field map whose field is in no row that was read."""
    if not tally.usable:
        return []
    return [
        f"--field {role}={one_line(name)}: no row has this field"
        for role, name in (rules.fields or {}).items()
        if role not in _REQUIRED and name not in tally.read and OTHERS not in tally.read
    ]


def nearest(path: str) -> str:
    """The path, relative to the working folder where that is shorter."""
    try:
        relative = path if "://" in path else os.path.relpath(path)
    except (OSError, ValueError):  # the working folder is gone
        return path
    return relative if len(relative) < len(path) and not relative.startswith("..") else path
