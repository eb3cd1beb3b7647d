"""The ledger of a run: what the corpus holds, which shards are done, and whether it all adds up.

A run folder is the ledger. The corpus is fixed once by `corpus/ledger.json`; every later stage
leaves one file and one small marker (row counts, id checksum) a shard. A stage is complete when
the ids in its markers equal the ids of the ledger, whatever Ray said about its tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mads_ray.corpus.identity import add_checksums
from mads_ray.errors import IncompleteError
from mads_ray.storage import read_json, write_json


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A canonical shard as ingest wrote it."""

    shard: int
    rows: int
    duplicates: int
    checksum: str


@dataclass(frozen=True, slots=True)
class CorpusLedger:
    """What ingest found: read = quarantined + duplicates + examples."""

    read: int
    quarantined: int
    duplicates: int
    examples: int
    shards: tuple[ShardRecord, ...]

    def check(self) -> None:
        """Raise IncompleteError unless no row was lost or counted twice."""
        if self.read != self.quarantined + self.duplicates + self.examples:
            raise IncompleteError(
                f"ingest read {self.read} rows but accounts for {self.quarantined} quarantined + "
                f"{self.duplicates} duplicates + {self.examples} examples"
            )


@dataclass(frozen=True, slots=True)
class StateRecord:
    """The commit marker of a captured shard. Times in seconds, `checksum` over all its uids."""

    shard: int
    captured: int
    quarantined: int
    checksum: str
    captured_checksum: str
    tokens: int
    padded_tokens: int
    cut_rows: int
    seconds: float


class RunFolder:
    """Names of everything in a run folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.corpus = self.root / "corpus"
        self.spool = self.corpus / "spool"
        self.states = self.root / "states"
        self.calibration = self.states / "calibration.npz"
        self.sample = self.states / "calibration"
        self.manifest = self.states / "manifest.json"
        self.quarantine = self.root / "quarantine"
        self.selection = self.root / "selection"
        self.core_set = self.root / "core_set"
        self.run_json = self.root / "run.json"
        self.report_data = self.root / "report.json"
        self.report_html = self.root / "report.html"

    def shard_file(self, shard: int) -> Path:
        """Canonical examples of a shard."""
        return self.corpus / f"shard-{shard:05d}.parquet"

    def state_file(self, shard: int) -> Path:
        """Activation states of a shard."""
        return self.states / f"part-{shard:05d}.parquet"

    def state_marker(self, shard: int) -> Path:
        """Commit marker of a captured shard."""
        return self.states / f"part-{shard:05d}.done.json"

    # --- the corpus ---

    def corpus_identity(self) -> dict[str, Any] | None:
        """What the stored corpus was made from, or None before ingest is complete."""
        stored = read_json(self.corpus / "ledger.json")
        return None if stored is None else dict(stored["identity"])

    def load_ledger(self) -> CorpusLedger:
        """Raises IncompleteError when ingest has not finished here."""
        stored = read_json(self.corpus / "ledger.json")
        if stored is None:
            raise IncompleteError(
                f"{self.root} holds no complete corpus; run `mads-ray capture` or `mads-ray run` "
                "with this --output first"
            )
        shards = tuple(ShardRecord(**s) for s in stored["shards"])
        counts = {k: int(stored[k]) for k in ("read", "quarantined", "duplicates", "examples")}
        return CorpusLedger(**counts, shards=shards)

    def save_ledger(self, ledger: CorpusLedger, identity: dict[str, Any]) -> None:
        """The commit of ingest."""
        ledger.check()
        write_json(self.corpus / "ledger.json", {"identity": identity, **asdict(ledger)})

    # --- the states ---

    def state_records(self, shards: Iterable[ShardRecord]) -> list[StateRecord]:
        """Markers of the shards captured so far, in shard order."""
        found = []
        for shard in shards:
            marker = read_json(self.state_marker(shard.shard))
            if marker is not None and self.state_file(shard.shard).exists():
                found.append(StateRecord(**marker))
        return found

    def check_states(self, ledger: CorpusLedger) -> list[StateRecord]:
        """Return every marker; raise IncompleteError unless their ids are the ledger's ids."""
        records = self.state_records(ledger.shards)
        check_against(ledger.shards, {r.shard: r for r in records})
        return records


def check_against(shards: Sequence[ShardRecord], done: dict[int, StateRecord]) -> None:
    """Compare a stage's markers with the ledger, shard by shard."""
    missing = [s.shard for s in shards if s.shard not in done]
    if missing:
        raise IncompleteError(
            f"{len(missing)} of {len(shards)} shards are not captured (first: {missing[0]}); "
            "run the same command again to go on where it stopped"
        )
    for shard in shards:
        record = done[shard.shard]
        rows = record.captured + record.quarantined
        if rows != shard.rows or record.checksum != shard.checksum:
            raise IncompleteError(
                f"shard {shard.shard}: {rows} rows with checksum {record.checksum} were captured, "
                f"the ledger has {shard.rows} with {shard.checksum}"
            )


def total_checksum(records: Iterable[StateRecord]) -> str:
    """Checksum over the uids of every captured example."""
    return add_checksums(r.captured_checksum for r in records)
