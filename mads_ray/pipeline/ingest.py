"""Stage 1: turn the corpus into canonical shards and a ledger."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mads_ray.config import CorpusConfig
from mads_ray.corpus.reading.discovery import Discovered, InputFile, discover
from mads_ray.corpus.shards import FileSummary, build_shard, shard_count, spool_file, stored_summary
from mads_ray.corpus.tally import Tally
from mads_ray.corpus.telling import reason_text
from mads_ray.errors import ConfigError, CorpusError, IncompleteError, MismatchError
from mads_ray.ledger import CorpusLedger, LostFile, ShardRecord
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.reading import tell_ingest
from mads_ray.pipeline.runtime.data_stream import stream
from mads_ray.pipeline.runtime.prometheus import observe
from mads_ray.pipeline.runtime.session import PoolShape, pool_shape
from mads_ray.pipeline.runtime.tasks import Item, Work
from mads_ray.pipeline.runtime.watch import Traces
from mads_ray.run_folder import CorpusIdentity, RunFolder
from mads_ray.storage import write_json
from mads_ray.stored.records import read_marker

log = logging.getLogger(__name__)

_REASONS = 5


def find_input(patterns: Sequence[str], corpus: CorpusConfig, output: RunFolder) -> Discovered:
    """Find the files of the corpus, and list those that are left out; skip the output folder.

    Raises ConfigError or CorpusError where there are none.
    """
    if not patterns:
        raise ConfigError("no input: give --input FILE, FOLDER or PATTERN (or --sample)")
    return discover(patterns, str(output.root), corpus.split)


def ingest(run: Run, corpus: CorpusConfig, found: Discovered) -> CorpusLedger:
    """Read the corpus, unless an earlier run did; log how its rows were read.

    Raises CorpusError for input that cannot be read or has no usable row, and MismatchError when
    the folder holds another corpus.
    """
    files, folder = found.files, run.output
    for line in found.lines():
        log.warning("ingest: %s", line)
    identity = {
        "files": [f.identity() for f in files],
        "corpus": corpus.model_dump(mode="json"),
    }
    _require_same_corpus(folder, identity)
    if folder.corpus_identity() is not None:
        ledger = folder.load_ledger()
        if ledger.lost and not corpus.skip_broken_files:
            raise MismatchError(
                f"{folder.root} was read with --skip-broken-files and lacks {len(ledger.lost)} "
                f"file(s), first {ledger.lost[0].path}: say so again, or use another --output"
            )
        log.info("ingest: %d examples were read before", ledger.examples)
        tell_ingest(ledger, corpus, folder)
        return ledger
    spooled = _spool(run, corpus, files)
    for file in spooled.lost:
        log.warning("ingest: skipped a broken file, all of it: %s", file.reason)
    if spooled.empty:
        first = spooled.empty[0]
        log.warning("ingest: %d file(s) hold no row, first %s", len(spooled.empty), first)
    tally = spooled.tally
    if not tally.usable:
        raise CorpusError(_useless(spooled, files, folder))
    records = _shard(run, tally.usable, spooled.runs, corpus.shard_rows)
    read, examples = spooled.read, sum(r.rows for r in records)
    duplicates = sum(r.duplicates for r in records)
    ledger = CorpusLedger(
        read,
        tally.quarantined,
        duplicates,
        examples,
        tuple(records),
        found.left_out,
        tuple(spooled.lost),
        tally.to_json() | {"worst_file": spooled.worst_file},
    )
    folder.save_ledger(ledger, identity)
    observe("mads_ray_rows", read, "ingest")
    observe("mads_ray_quarantined_rows", ledger.quarantined, "ingest")
    shutil.rmtree(folder.spool, ignore_errors=True)
    log.info(
        "ingest: %s rows read from %d file(s): %s examples, %s exact duplicates, %s quarantined",
        *(f"{read:,}", len(files), f"{examples:,}", f"{duplicates:,}"),
        f"{ledger.quarantined:,}",
    )
    tell_ingest(ledger, corpus, folder)
    return ledger


@dataclass(slots=True)
class _Spooled:
    """Sums over all input files. `worst_file` is the one with most rows in quarantine."""

    read: int = 0
    tally: Tally = field(default_factory=Tally)
    runs: list[Path] = field(default_factory=list)
    lost: list[LostFile] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    worst_file: dict[str, Any] | None = None

    def add(self, file: InputFile, found: FileSummary, spool: Path) -> None:
        """Add one file."""
        self.read += found.read
        self.tally.add(found.tally)
        self.runs += [spool / name for name in found.runs]
        if found.lost is not None:
            self.lost.append(found.lost)
        elif not found.read:
            self.empty.append(file.path)
        bad, worst = found.quarantined, self.worst_file
        if bad and (worst is None or bad > worst["quarantined"]):
            self.worst_file = {"file": file.path, "read": found.read, "quarantined": bad}


def _useless(spooled: _Spooled, files: list[InputFile], folder: RunFolder) -> str:
    if not spooled.read:
        broken = f"; {len(spooled.lost)} of them are broken" if spooled.lost else ""
        return f"no usable row: {len(files)} file(s) hold no row, first {files[0].path}{broken}"
    shown = "".join(f"\n  {reason_text(r)}" for r in spooled.tally.reasons()[:_REASONS])
    return (
        f"no usable row: {spooled.read} rows read from {len(files)} file(s), all in quarantine:"
        f"{shown}\n"
        f"See {folder.quarantine}, or try `mads-ray inspect` with --field prompt=... "
        "--field response=..."
    )


def _require_same_corpus(folder: RunFolder, identity: dict[str, Any]) -> None:
    """Refuse a folder of another corpus; remove an unfinished ingest of other files.

    An unfinished ingest may have read a file before it was repaired, and no later stage has used
    it yet.
    """
    plan = folder.corpus / "plan.json"
    stored = folder.corpus_identity()
    if stored is not None:  # settings that an older version did not know are the defaults
        stored["corpus"] = CorpusConfig.of_stored(stored["corpus"], folder.ledger).model_dump(
            mode="json"
        )
    if stored is None:
        # Whether broken files may be skipped changes nothing in what was read of the others.
        planned = read_marker(plan, CorpusIdentity)
        if planned is None or _tolerant(asdict(planned)) != _tolerant(identity):
            shutil.rmtree(folder.corpus, ignore_errors=True)
            shutil.rmtree(folder.quarantine, ignore_errors=True)
            write_json(plan, identity)
        return
    if _tolerant(stored) == _tolerant(identity):
        return
    changes = []
    old = {f["path"]: f for f in stored["files"]}
    new = {f["path"]: f for f in identity["files"]}
    changes += [f"stored file not among the inputs: {p}" for p in sorted(old.keys() - new.keys())]
    changes += [f"new input file: {p}" for p in sorted(new.keys() - old.keys())]
    for path in sorted(old.keys() & new.keys()):
        changes += [
            f"{path}: {k} was {old[path][k]!r}, is {new[path][k]!r}"
            for k in old[path]
            if old[path][k] != new[path][k]
        ]
    changes += [
        f"corpus.{k}: stored {stored['corpus'][k]!r}, wanted {v!r}"
        for k, v in identity["corpus"].items()
        if k != "skip_broken_files" and _tolerant(stored)["corpus"].get(k) != v
    ]
    shown = "\n  ".join(changes[:20])
    raise MismatchError(
        f"{folder.root} holds another corpus:\n  {shown}\n"
        "Use another --output, or delete that folder."
    )


def _tolerant(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without the settings that do not change the corpus.

    Settings that an older version did not store get their defaults.
    """
    corpus = CorpusConfig().model_dump(mode="json") | identity["corpus"]
    del corpus["skip_broken_files"]
    return {**identity, "corpus": corpus}


def _spool(run: Run, corpus: CorpusConfig, files: list[InputFile]) -> _Spooled:
    folder = run.output
    items = [{"index": i, "file": asdict(f)} for i, f in enumerate(files)]
    args = (corpus, folder.spool, folder.quarantine)
    for _ in stream("read", items, _spooler, args, *_cpu_pool(run, len(items))):
        pass  # the marker of each file holds its summary
    spooled = _Spooled()
    for index, file in enumerate(files):  # in one order, whichever worker ended first
        found = stored_summary(folder.spool, index)
        if found is None:
            raise IncompleteError(f"{folder.spool} lacks what was found in {file.path}")
        spooled.add(file, found, folder.spool)
    return spooled


def _shard(run: Run, usable: int, runs: list[Path], shard_rows: int) -> list[ShardRecord]:
    n_shards = shard_count(usable, shard_rows)
    items = [{"shard": s, "target": str(run.output.shard_file(s))} for s in range(n_shards)]
    pool = _cpu_pool(run, n_shards)
    results = stream("shard", items, _sharder, (n_shards, runs), *pool)
    return sorted((ShardRecord(**r) for r in results), key=lambda r: r.shard)


def _cpu_pool(run: Run, tasks: int) -> tuple[PoolShape, Traces]:
    config = run.config.ray.model_copy(update={"gpus_per_worker": 0, "cpus_per_worker": 1})
    return pool_shape(config, tasks), Traces()


def _spooler(corpus: CorpusConfig, spool: Path, quarantine: Path) -> Work:
    def work(item: Item) -> Item:
        file = InputFile(**item["file"])
        summary = spool_file(item["index"], file, corpus, spool, quarantine)
        return {"read": summary.read}

    return work


def _sharder(n_shards: int, runs: list[Path]) -> Callable[[Item], Item]:
    def work(item: Item) -> Item:
        return asdict(build_shard(item["shard"], n_shards, runs, Path(item["target"])))

    return work
