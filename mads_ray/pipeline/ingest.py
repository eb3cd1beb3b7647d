"""Stage 1: the corpus becomes canonical shards and a ledger."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mads_ray.config import CorpusConfig, RunConfig
from mads_ray.corpus.files import InputFile, discover
from mads_ray.corpus.identity import shard_count
from mads_ray.corpus.ingest import build_shard, spool_file, stored_summary
from mads_ray.corpus.tally import Tally
from mads_ray.corpus.telling import reason_text
from mads_ray.errors import ConfigError, CorpusError, IncompleteError, MismatchError
from mads_ray.ledger import CorpusLedger, RunFolder, ShardRecord
from mads_ray.pipeline.metrics import observe
from mads_ray.pipeline.reading import tell_ingest
from mads_ray.pipeline.session import pool_shape
from mads_ray.pipeline.stream import Item, Work, stream
from mads_ray.storage import read_json, write_json

log = logging.getLogger("mads_ray")

_REASONS = 5


def find_input(config: RunConfig, folder: RunFolder) -> list[InputFile]:
    """The files of the corpus. Raises ConfigError or CorpusError where there are none."""
    if not config.input:
        raise ConfigError("no input: give --input FILE, FOLDER or PATTERN (or --sample)")
    files = discover(config.input, leave_out=str(folder.root))
    if not files:
        raise CorpusError(f"--input {' '.join(config.input)}: no corpus file in these folders")
    return files


def ingest(config: RunConfig, folder: RunFolder, files: list[InputFile]) -> CorpusLedger:
    """Read the corpus once, or find it already read; tell how its rows were understood.

    Raises CorpusError for unreadable or useless input, MismatchError when the folder holds another
    corpus.
    """
    identity = {
        "files": [asdict(f) for f in files],
        "corpus": config.corpus.model_dump(mode="json"),
    }
    _require_same_corpus(folder, identity)
    if folder.corpus_identity() is not None:
        ledger = folder.load_ledger()
        log.info("ingest: %d examples were read before", ledger.examples)
        tell_ingest(ledger, config.corpus, folder)
        return ledger
    read, reading, runs = _spool(files, config, folder)
    tally = Tally.from_json(reading)
    if not tally.usable:
        raise CorpusError(_useless(read, len(files), tally, folder))
    records = _shard(tally.usable, runs, config, folder)
    examples = sum(r.rows for r in records)
    duplicates = sum(r.duplicates for r in records)
    shards = tuple(records)
    ledger = CorpusLedger(read, tally.quarantined, duplicates, examples, shards, reading)
    folder.save_ledger(ledger, identity)
    observe("mads_ray_rows", read, "ingest")
    observe("mads_ray_quarantined_rows", ledger.quarantined, "ingest")
    shutil.rmtree(folder.spool, ignore_errors=True)
    log.info(
        "ingest: %s rows read from %d file(s): %s examples, %s exact duplicates, %s quarantined",
        *(f"{read:,}", len(files), f"{examples:,}", f"{duplicates:,}"),
        f"{ledger.quarantined:,}",
    )
    tell_ingest(ledger, config.corpus, folder)
    return ledger


def _useless(read: int, files: int, tally: Tally, folder: RunFolder) -> str:
    if not read:
        return f"no usable row: {files} file(s) hold no row at all"
    shown = "".join(f"\n  {reason_text(r)}" for r in tally.reasons()[:_REASONS])
    return (
        f"no usable row: {read} rows read from {files} file(s), all in quarantine:{shown}\n"
        f"See {folder.quarantine}, or try `mads-ray inspect` with --field prompt=... "
        "--field response=..."
    )


def _require_same_corpus(folder: RunFolder, identity: dict[str, Any]) -> None:
    """Refuse a folder of another corpus; throw away an unfinished ingest of other files.

    An unfinished ingest may hold work of a file that has been repaired since, and nothing builds on
    it yet.
    """
    plan = folder.corpus / "plan.json"
    stored = folder.corpus_identity()
    if stored is not None:  # settings that an older version did not know are the defaults
        stored["corpus"] = CorpusConfig.model_validate(stored["corpus"]).model_dump(mode="json")
    if stored is None:
        if read_json(plan) != identity:
            shutil.rmtree(folder.corpus, ignore_errors=True)
            shutil.rmtree(folder.quarantine, ignore_errors=True)
            write_json(plan, identity)
        return
    if stored == identity:
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
        if stored["corpus"].get(k) != v
    ]
    shown = "\n  ".join(changes[:20])
    raise MismatchError(
        f"{folder.root} holds another corpus:\n  {shown}\n"
        "Use another --output, or delete that folder."
    )


def _spool(
    files: list[InputFile], config: RunConfig, folder: RunFolder
) -> tuple[int, dict[str, Any], list[Path]]:
    items = [{"index": i, "file": asdict(f)} for i, f in enumerate(files)]
    workers, _, _ = pool_shape(config.ray.model_copy(update={"gpus_per_worker": 0}), len(items))
    args = (config.corpus, folder.spool, folder.quarantine)
    read = 0
    runs: list[str] = []
    for result in stream("read", items, _spooler, args, workers=workers):
        read += result["read"]
        runs += result["runs"]
    return read, _reading(files, folder), [folder.spool / r for r in sorted(runs)]


def _reading(files: list[InputFile], folder: RunFolder) -> dict[str, Any]:
    """How all files were read, added up in their order: who ended first must not show."""
    total = Tally()
    worst: dict[str, Any] | None = None
    for index, file in enumerate(files):
        found = stored_summary(folder.spool, index)
        if found is None:
            raise IncompleteError(f"{folder.spool} lacks what was found in {file.path}")
        total.add(found.tally)
        bad = found.quarantined
        if bad and (worst is None or bad > worst["quarantined"]):
            worst = {"file": file.path, "read": found.read, "quarantined": bad}
    return total.to_json() | {"worst_file": worst}


def _shard(
    usable: int, runs: list[Path], config: RunConfig, folder: RunFolder
) -> list[ShardRecord]:
    n_shards = shard_count(usable, config.corpus.shard_rows)
    items = [{"shard": s, "target": str(folder.shard_file(s))} for s in range(n_shards)]
    workers, _, _ = pool_shape(config.ray.model_copy(update={"gpus_per_worker": 0}), n_shards)
    results = stream("shard", items, _sharder, (n_shards, runs), workers=workers)
    return sorted((ShardRecord(**r) for r in results), key=lambda r: r.shard)


def _spooler(corpus: CorpusConfig, spool: Path, quarantine: Path) -> Work:
    def work(item: Item) -> Item:
        file = InputFile(**item["file"])
        summary = spool_file(item["index"], file, corpus, spool, quarantine)
        return {"read": summary.read, "runs": summary.runs}

    return work


def _sharder(n_shards: int, runs: list[Path]) -> Callable[[Item], Item]:
    def work(item: Item) -> Item:
        return asdict(build_shard(item["shard"], n_shards, runs, Path(item["target"])))

    return work
