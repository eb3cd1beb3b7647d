"""Records of the corpus, of each canonical shard, and of its capture. Their counts must add up.

A stage is complete when the uids in its markers are those of the ledger. What Ray says about its
tasks does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mads_ray.errors import IncompleteError
from mads_ray.hashing import add_checksums

_CHECKSUM = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Files in folders that are not read, for one reason: how many, and the path of one of them.

    `why` is format (`what`: the suffix), split (`what`: the split), hidden, metadata, link,
    dangling or special.
    """

    why: str
    what: str
    files: int
    example: str


@dataclass(frozen=True, slots=True)
class LostFile:
    """A broken file, all of which was skipped. `rows`: how many were read before it broke."""

    path: str
    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A canonical shard as ingest wrote it."""

    shard: int
    rows: int
    duplicates: int
    checksum: str


@dataclass(frozen=True, slots=True)
class CorpusLedger:
    """What ingest found: read = quarantined + duplicates + examples.

    `reading` says how rows were read and why others were not: a `corpus.tally.Tally` as JSON, and
    `worst_file`. None in ledgers of older versions.
    """

    read: int
    quarantined: int
    duplicates: int
    examples: int
    shards: tuple[ShardRecord, ...]
    left_out: tuple[LeftOut, ...] = ()  # files that are not read
    lost: tuple[LostFile, ...] = ()  # broken files of the corpus
    reading: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise IncompleteError unless no row was lost or counted twice."""
        if self.read != self.quarantined + self.duplicates + self.examples:
            raise IncompleteError(
                f"ingest read {self.read} rows but accounts for {self.quarantined} quarantined + "
                f"{self.duplicates} duplicates + {self.examples} examples"
            )
        usable = self.duplicates + self.examples
        if self.reading is not None and sum(self.reading["schemas"].values()) != usable:
            raise IncompleteError(
                f"ingest read {usable} rows as examples, by schema {self.reading['schemas']}"
            )


@dataclass(frozen=True, slots=True)
class StateRecord:
    """The commit marker of a captured shard.

    Times are in seconds. `checksum` is over all its uids. `repeated` counts how often a row was
    begun again, by another process or alone.
    """

    shard: int
    captured: int
    quarantined: int
    checksum: str
    captured_checksum: str
    calibration: str
    tokens: int
    padded_tokens: int
    cut_rows: int
    seconds: float
    processes: int = 1
    repeated: int = 0

    def covers(self, shard: ShardRecord) -> bool:
        """Whether its examples are exactly those of this canonical shard."""
        rows = self.captured + self.quarantined
        mine = (self.shard, rows, self.checksum)
        captured = self.captured_checksum
        # Where nothing failed the two checksums are one.
        fits = bool(_CHECKSUM.fullmatch(captured)) and (self.quarantined or captured == mine[2])
        return mine == (shard.shard, shard.rows, shard.checksum) and bool(fits)


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a run: read = quarantined + duplicates + examples. `selected` are examples."""

    read: int
    quarantined: int
    duplicates: int
    examples: int
    selected: int


def check_against(shards: Sequence[ShardRecord], done: dict[int, StateRecord]) -> None:
    """Raise IncompleteError unless the markers of a stage agree with the ledger, shard by shard."""
    missing = [s.shard for s in shards if s.shard not in done]
    if missing:
        raise IncompleteError(
            f"{len(missing)} of {len(shards)} shards are not captured (first: {missing[0]}); "
            "run the command that captures (`mads-ray run` or `mads-ray capture`) again to go on "
            "where it stopped"
        )
    for shard in shards:
        record = done[shard.shard]
        if not record.covers(shard):
            raise IncompleteError(
                f"shard {shard.shard}: {record.captured + record.quarantined} rows with checksum "
                f"{record.checksum} were captured, the ledger has {shard.rows} with "
                f"{shard.checksum}"
            )


def total_checksum(records: Iterable[StateRecord]) -> str:
    """Checksum over the uids of every captured example."""
    return add_checksums(r.captured_checksum for r in records)
