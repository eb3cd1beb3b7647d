"""The folder of a run: the name of every file in it, its lock, its ledger and its markers.

Ingest writes `corpus/ledger.json` once: it fixes the corpus. Each later stage writes for each shard
one file and one small marker with row counts and a checksum of the uids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mads_ray.errors import IncompleteError, MismatchError
from mads_ray.ledger import CorpusLedger, ShardRecord, StateRecord, check_against
from mads_ray.storage import write_json
from mads_ray.stored.damaged import damaged
from mads_ray.stored.records import read_kept, read_marker, record_of
from mads_ray.stored.tables import parquet_rows

_READ_AGAIN = (
    "remove it and run the command that read the corpus again: it reads the input once more, and "
    "keeps the shards and states that fit"
)


@dataclass(frozen=True, slots=True)
class CorpusIdentity:
    """What a corpus was made from: its files, and the settings of its reading."""

    files: list[dict[str, Any]]
    corpus: dict[str, Any]


class RunFolder:
    """The names of all files in a run folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.corpus = self.root / "corpus"
        self.ledger = self.corpus / "ledger.json"
        self.spool = self.corpus / "spool"
        self.ingesting = self.corpus / "open"  # journals of what ingest is doing
        self.states = self.root / "states"
        self.calibration = self.states / "calibration.npz"
        self.sample = self.states / "calibration"
        self.manifest = self.states / "manifest.json"
        self.open = self.states / "open"  # journals of shards that are not committed
        self.quarantine = self.root / "quarantine"
        self.density = self.root / "density"
        self.density_of = self.density / "pool.json"  # its states and settings
        self.landmarks = self.density / "landmarks.npz"
        self.clusters = self.root / "clusters"
        self.cluster_tree = self.clusters / "tree.npz"
        self.cluster_tree_of = self.clusters / "tree.json"  # its states and settings
        self.selection = self.root / "selection"
        self.selection_tree = self.selection / "cluster_tree.npz"  # the tree of this selection
        self.rounds = self.root / "rounds"  # of a selection that is under way
        self.pool_counts = self.selection / "pool_counts.npy"
        self.target_counts = self.selection / "target_counts.npy"
        self.target = self.root / "target"
        self.core_set = self.root / "core_set"
        self.picks = self.core_set / ".picks"  # by part, until the parts are written
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
        """Rank, gain and cluster of every example of a shard."""
        return self.selection / f"part-{shard:05d}.parquet"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Lock the folder for the block, because two runs would delete each other's files.

        The lock ends with its process. Raises MismatchError for a folder that another run works
        in, or that holds other files than a run's: a user's files are never deleted.
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
        """Files and settings that the stored corpus was made from, None before ingest is done."""
        stored = self._stored_ledger()
        return None if stored is None else dict(stored["identity"])

    def load_ledger(self) -> CorpusLedger:
        """Read the ledger.

        Raises IncompleteError when ingest has not finished here, DamagedFileError for a ledger that
        is torn or of another version.
        """
        stored = self._stored_ledger()
        if stored is None:
            raise IncompleteError(
                f"{self.root} holds no complete corpus; run `mads-ray capture` or `mads-ray run` "
                "with this --output first"
            )
        counted = {name: value for name, value in stored.items() if name != "identity"}
        return record_of(self.ledger, CorpusLedger, counted, _READ_AGAIN)

    def _stored_ledger(self) -> dict[str, Any] | None:
        stored = read_kept(self.ledger, dict, _READ_AGAIN)
        if stored is not None:
            identity = record_of(
                self.ledger, CorpusIdentity, stored.get("identity", {}), _READ_AGAIN
            )
            if not all(isinstance(f, dict) and type(f.get("path")) is str for f in identity.files):
                raise damaged(self.ledger, "has a file without its path", _READ_AGAIN)
        return stored

    def save_ledger(self, ledger: CorpusLedger, identity: dict[str, Any]) -> None:
        """Write the ledger: this commits ingest."""
        ledger.check()
        write_json(self.ledger, {"identity": identity, **asdict(ledger)})

    # --- the states ---

    def state_records(
        self, shards: Iterable[ShardRecord], calibration: str
    ) -> tuple[StateRecord, ...]:
        """Markers of the shards captured so far with this calibration, in shard order.

        A marker that is torn or foreign, or does not fit its shard or its file, counts as absent:
        the shard is captured again.
        """
        found = []
        for shard in shards:
            record = read_marker(self.state_marker(shard.shard), StateRecord)
            if record is None or record.calibration != calibration or not record.covers(shard):
                continue
            if parquet_rows(self.state_file(shard.shard)) == record.captured:
                found.append(record)
        return tuple(found)

    def check_states(self, ledger: CorpusLedger, calibration: str) -> tuple[StateRecord, ...]:
        """Return every marker. Raises IncompleteError unless their uids are those of the ledger."""
        records = self.state_records(ledger.shards, calibration)
        check_against(ledger.shards, {r.shard: r for r in records})
        return records
