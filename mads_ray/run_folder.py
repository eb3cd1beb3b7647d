"""The folder of a run: the name of every file in it, its lock, its ledger and its markers.

Ingest writes `corpus/ledger.json` once: it fixes the corpus. Each later stage writes for each shard
one file and one small marker with row counts and a checksum of the uids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from mads_ray.errors import IncompleteError, MismatchError
from mads_ray.ledger import CorpusLedger, LeftOut, LostFile, ShardRecord, StateRecord, check_against
from mads_ray.storage import read_json, write_json


class RunFolder:
    """The names of all files in a run folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.corpus = self.root / "corpus"
        self.spool = self.corpus / "spool"
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
        stored = read_json(self.corpus / "ledger.json")
        return None if stored is None else dict(stored["identity"])

    def load_ledger(self) -> CorpusLedger:
        """Read the ledger. Raises IncompleteError when ingest has not finished here."""
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
        """Write the ledger: this commits ingest."""
        ledger.check()
        write_json(self.corpus / "ledger.json", {"identity": identity, **asdict(ledger)})

    # --- the states ---

    def state_records(
        self, shards: Iterable[ShardRecord], calibration: str
    ) -> tuple[StateRecord, ...]:
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
        return tuple(found)

    def check_states(self, ledger: CorpusLedger, calibration: str) -> tuple[StateRecord, ...]:
        """Return every marker. Raises IncompleteError unless their uids are those of the ledger."""
        records = self.state_records(ledger.shards, calibration)
        check_against(ledger.shards, {r.shard: r for r in records})
        return records


def _parquet_rows(path: Path) -> int | None:
    """Rows of a Parquet file by its footer; None where the file is absent or torn."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowInvalid):
        return None
