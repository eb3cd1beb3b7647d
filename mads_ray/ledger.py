"""The ledger of a run: what the corpus holds, which shards are done, and whether it all adds up.

A run folder is the ledger. The corpus is fixed once by `corpus/ledger.json`; every later stage
leaves one file and one small marker (row counts, id checksum) a shard. A stage is complete when
the ids in its markers equal the ids of the ledger, whatever Ray said about its tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from mads_ray.corpus.identity import add_checksums
from mads_ray.corpus.reading.discovery import LeftOut, LostFile
from mads_ray.errors import IncompleteError, MismatchError
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
    """What ingest found: read = quarantined + duplicates + examples.

    `reading` tells how the rows were read, and why not (a `corpus.tally.Tally` and what
    `pipeline.ingest` adds to it); None in ledgers of older versions.
    """

    read: int
    quarantined: int
    duplicates: int
    examples: int
    shards: tuple[ShardRecord, ...]
    left_out: tuple[LeftOut, ...] = ()  # files beside the corpus
    lost: tuple[LostFile, ...] = ()  # files of the corpus that were broken
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
    """The commit marker of a captured shard. Times in seconds, `checksum` over all its uids;
    `repeated` counts how often rows were begun again, by another process or alone."""

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
        """Whether it accounts for exactly the examples of this canonical shard."""
        rows = self.captured + self.quarantined
        return (rows, self.checksum) == (shard.rows, shard.checksum)


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
        self.open = self.states / "open"  # what is known of shards that are not committed
        self.quarantine = self.root / "quarantine"
        self.clusters = self.root / "clusters"
        self.selection = self.root / "selection"
        self.rounds = self.root / "rounds"  # of a selection under way
        self.pool_counts = self.selection / "pool_counts.npy"
        self.target_counts = self.selection / "target_counts.npy"
        self.target = self.root / "target"
        self.core_set = self.root / "core_set"
        self.log = self.root / "log.jsonl"
        self.run_json = self.root / "run.json"
        self.report_data = self.root / "report.json"
        self.evaluation = self.root / "evaluation.json"
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

    def selection_file(self, shard: int) -> Path:
        """What the selection says of every example of a shard."""
        return self.selection / f"part-{shard:05d}.parquet"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Work in this folder alone: two runs would delete each other's files.

        The lock dies with its process. Raises MismatchError for a folder that another run works in,
        or that holds anything but a run: nothing of a user's is ever deleted.
        """
        lock = self.root / ".mads_ray.lock"
        if self.root.exists() and any(self.root.iterdir()) and not lock.exists():
            raise MismatchError(
                f"{self.root} is not empty and holds no run; --output must name a new or empty "
                "folder, or that of an earlier run"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=0):
                yield
        except Timeout as e:
            raise MismatchError(f"another run is working in {self.root}") from e

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
        left_out = tuple(LeftOut(**x) for x in stored.get("left_out", ()))
        lost = tuple(LostFile(**x) for x in stored.get("lost", ()))
        return CorpusLedger(
            **counts, shards=shards, left_out=left_out, lost=lost, reading=stored.get("reading")
        )

    def save_ledger(self, ledger: CorpusLedger, identity: dict[str, Any]) -> None:
        """The commit of ingest."""
        ledger.check()
        write_json(self.corpus / "ledger.json", {"identity": identity, **asdict(ledger)})

    # --- the states ---

    def state_records(self, shards: Iterable[ShardRecord], calibration: str) -> list[StateRecord]:
        """Markers of the shards captured so far with this calibration, in shard order.

        A marker that does not fit its shard or its file counts as absent: the shard is captured
        again.
        """
        found = []
        for shard in shards:
            marker = read_json(self.state_marker(shard.shard))
            if marker is None:
                continue
            record = StateRecord(**marker)
            fits = record.calibration == calibration and record.covers(shard)
            if fits and _parquet_rows(self.state_file(shard.shard)) == record.captured:
                found.append(record)
        return found

    def check_states(self, ledger: CorpusLedger, calibration: str) -> list[StateRecord]:
        """Return every marker; raise IncompleteError unless their ids are the ledger's ids."""
        records = self.state_records(ledger.shards, calibration)
        check_against(ledger.shards, {r.shard: r for r in records})
        return records


def _parquet_rows(path: Path) -> int | None:
    """Rows of a Parquet file by its footer; None when it is absent or torn."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowInvalid):
        return None


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
        if not record.covers(shard):
            raise IncompleteError(
                f"shard {shard.shard}: {record.captured + record.quarantined} rows with checksum "
                f"{record.checksum} were captured, the ledger has {shard.rows} with "
                f"{shard.checksum}"
            )


def total_checksum(records: Iterable[StateRecord]) -> str:
    """Checksum over the uids of every captured example."""
    return add_checksums(r.captured_checksum for r in records)
