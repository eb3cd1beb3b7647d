"""Count the rows of a corpus: how they were read, or why they were put in quarantine.

The size of a tally depends on the kinds of rows, not on their number. Tallies of files add up to
that of the corpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mads_ray.corpus.examples import Rules
from mads_ray.corpus.forms.schemas import Reading, label_of
from mads_ray.errors import RowError
from mads_ray.printable import as_utf8

OTHERS = "(others)"  # counts names, or fields of a reason, beyond the most that a tally keeps
MEDIA = "not_text"  # the reason of rows with images, audio or video
_NAMES = 64
_KINDS = 128
_PATTERNS = 256
_LONGEST = 80
_MESSAGE = 240
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows that were put in quarantine for one reason at one field.

    `field` has no indices: `messages[].content` is the content of any turn. `file`, `row`, `where`
    (the field with indices) and `message` are those of the first such row.
    """

    reason: str
    field: str
    count: int
    file: str
    row: int
    where: str
    message: str


@dataclass(slots=True)
class Tally:
    """Rows by schema, by the fields that were read and those that were not, and by reason.

    `unread`: known fields that were left out on purpose. `other`: filled fields that no schema
    knows. `without_media`: rows that were read without their images, audio or video.
    """

    schemas: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    other: dict[str, int] = field(default_factory=dict)
    without_media: int = 0
    refused: dict[tuple[str, str], Refused] = field(default_factory=dict)

    @property
    def usable(self) -> int:
        """Rows that were read."""
        return sum(self.schemas.values())

    @property
    def quarantined(self) -> int:
        """Rows that were put in quarantine."""
        return sum(r.count for r in self.refused.values())

    def add(self, other: Tally) -> None:
        """Add another file's tally. Added in the order of files, the sum is always the same."""
        for name in ("schemas", "read", "unread", "other"):
            for key, rows in getattr(other, name).items():
                count(getattr(self, name), key, rows)
        self.without_media += other.without_media
        for found in other.refused.values():
            self.refuse(found)

    def refuse(self, found: Refused) -> None:
        """Add rows of one reason and field."""
        key = (found.reason, found.field)
        if key not in self.refused and len(self.refused) >= _KINDS:
            key = (found.reason, OTHERS)
        old = self.refused.get(key)
        first = min(old or found, found, key=lambda r: (r.file, r.row))
        rows = found.count + (old.count if old else 0)
        self.refused[key] = replace(first, field=key[1], count=rows)

    def reasons(self) -> list[Refused]:
        """The reasons, most rows first."""
        return sorted(self.refused.values(), key=lambda r: (-r.count, r.reason, r.field))

    def to_json(self) -> dict[str, Any]:
        """The tally as plain lists and dicts, most rows first."""
        names = ("schemas", "read", "unread", "other")
        return {
            "reasons": [asdict(r) for r in self.reasons()],
            **{name: dict(_ranked(getattr(self, name))) for name in names},
            "without_media": self.without_media,
        }

    @staticmethod
    def from_json(stored: dict[str, Any]) -> Tally:
        """Read what `to_json` returned. Other keys are ignored."""
        tally = Tally(without_media=stored["without_media"])
        for name in ("schemas", "read", "unread", "other"):
            setattr(tally, name, dict(stored[name]))
        tally.refused = {(r["reason"], r["field"]): Refused(**r) for r in stored["reasons"]}
        return tally


@dataclass(frozen=True, slots=True)
class StoredTally:
    """What `Tally.to_json` returns, with its types."""

    reasons: tuple[Refused, ...]
    schemas: dict[str, int]
    read: dict[str, int]
    unread: dict[str, int]
    other: dict[str, int]
    without_media: int


class RowCounter:
    """Counts the rows of one file as they come. `tally` is complete after `settle`."""

    def __init__(self, file: str, rules: Rules) -> None:
        self.tally = Tally()
        self._file = file
        self._label = rules.label_field
        self._text_only = rules.text_only
        self._patterns: dict[tuple[Any, ...], _Pattern] = {}

    def add(self, reading: Reading, row: Any) -> None:
        """Count a row that was read."""
        # Most rows of a file have one of a few patterns: names are looked up once for each pattern.
        names = tuple(row) if type(row) is dict else ()
        key = (reading.schema, reading.read, reading.unread, names)
        pattern = self._patterns.get(key)
        if pattern is None:
            if len(self._patterns) >= _PATTERNS or len(names) > _PATTERNS:
                self.settle()
            pattern = self._patterns[key] = self._pattern(reading, names)
        pattern.rows += 1
        for name in pattern.other:
            value = row[name]
            if value or value == 0:  # not null, "" or []
                pattern.other[name] += 1
        if self._text_only:
            of = reading.conversation
            self.tally.without_media += bool(of.media or any(m.media for m in of.messages))

    def _pattern(self, reading: Reading, names: tuple[str, ...]) -> _Pattern:
        known = {n for name in (*reading.read, *reading.unread) for n in (name, _top(name))}
        unknown = (n for n in names if n not in known)
        label = self._label
        return _Pattern(0, {n: 0 for n in unknown if label_of({n: "label"}, label) is None})

    def refuse(self, error: RowError, row: int) -> None:
        """Count a row that was not read. `row`: its number in the file."""
        self.tally.refuse(refused(error.reason, error.field, self._file, row, error.message))

    def settle(self) -> Tally:
        """Add the patterns since the last call to the tally. So only a bounded number is kept."""
        tally = self.tally
        for (schema, read, unread, _), pattern in self._patterns.items():
            count(tally.schemas, schema, pattern.rows)
            for counts, names in ((tally.read, read), (tally.unread, unread)):
                for name in names:
                    count(counts, name, pattern.rows)
            for name, rows in pattern.other.items():
                if rows:
                    count(tally.other, name, rows)
        self._patterns.clear()
        return tally


@dataclass(slots=True)
class _Pattern:
    """Rows with the same fields, read in the same way. `other`: rows by filled unknown field."""

    rows: int
    other: dict[str, int]


def refused(reason: str, where: str, file: str, row: int, message: str) -> Refused:
    """One row of the quarantine, cut to a bounded size."""
    kind = short(_INDEX.sub("[]", where))
    return Refused(reason, kind, 1, file, row, short(where), short(message, _MESSAGE))


def count(counts: dict[str, int], name: str, rows: int) -> None:
    """Add rows under a name, or under `OTHERS` when there are too many names."""
    name = short(name)
    if name not in counts and len(counts) >= _NAMES:
        name = OTHERS
    counts[name] = counts.get(name, 0) + rows


def short(text: str, most: int = _LONGEST) -> str:
    """The text in at most `most` characters, all of which UTF-8 can encode."""
    return as_utf8(text if len(text) <= most else text[: most - 3] + "...")


def _top(name: str) -> str:
    return re.split(r"[.\[]", name, maxsplit=1)[0]


def _ranked(counts: dict[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
