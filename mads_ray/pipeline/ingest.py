"""Stage 1: the corpus becomes canonical shards and a ledger."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mads_ray.config import CorpusConfig, RunConfig
from mads_ray.corpus.files import Discovered, InputFile, LostFile, discover
from mads_ray.corpus.identity import shard_count
from mads_ray.corpus.ingest import build_shard, spool_file
from mads_ray.errors import ConfigError, CorpusError, MismatchError
from mads_ray.ledger import CorpusLedger, RunFolder, ShardRecord
from mads_ray.pipeline.metrics import observe
from mads_ray.pipeline.session import pool_shape
from mads_ray.pipeline.stream import Item, Work, stream
from mads_ray.storage import read_json, write_json

log = logging.getLogger("mads_ray")


def find_input(config: RunConfig, folder: RunFolder) -> Discovered:
    """The files of the corpus, and what lies beside them.

    Raises ConfigError or CorpusError where there are none.
    """
    if not config.input:
        raise ConfigError("no input: give --input FILE, FOLDER or PATTERN (or --sample)")
    return discover(config.input, str(folder.root), config.corpus.split)


def ingest(config: RunConfig, folder: RunFolder, found: Discovered) -> CorpusLedger:
    """Read the corpus once, or find it already read.

    Raises CorpusError for unreadable or useless input, MismatchError when the folder holds another
    corpus.
    """
    files = found.files
    for line in found.lines():
        log.warning("ingest: %s", line)
    identity = {
        "files": [f.identity() for f in files],
        "corpus": config.corpus.model_dump(mode="json"),
    }
    _require_same_corpus(folder, identity)
    if folder.corpus_identity() is not None:
        ledger = folder.load_ledger()
        if ledger.lost and not config.corpus.skip_broken_files:
            raise MismatchError(
                f"{folder.root} was read with --skip-broken-files and lacks {len(ledger.lost)} "
                f"file(s), first {ledger.lost[0].path}: say so again, or use another --output"
            )
        log.info("ingest: %d examples were read before", ledger.examples)
        return ledger
    usable, read, quarantined, runs, lost = _spool(files, config, folder)
    for file in lost:
        log.warning("ingest: skipped a broken file, all of it: %s", file.reason)
    if not read:
        raise CorpusError(
            f"{len(files)} file(s) hold no row, first {files[0].path}"
            + (f"; {len(lost)} of them are broken" if lost else "")
        )
    if not usable:
        raise CorpusError(
            f"no usable row: {read} rows read from {len(files)} file(s), all in quarantine; "
            f"see the reasons in {folder.quarantine}"
        )
    records = _shard(usable, runs, config, folder)
    examples = sum(r.rows for r in records)
    duplicates = sum(r.duplicates for r in records)
    ledger = CorpusLedger(
        read, quarantined, duplicates, examples, tuple(records), found.left_out, lost
    )
    folder.save_ledger(ledger, identity)
    observe("mads_ray_rows", read, "ingest")
    observe("mads_ray_quarantined_rows", quarantined, "ingest")
    shutil.rmtree(folder.spool, ignore_errors=True)
    log.info(
        "ingest: %s rows read from %d file(s): %s examples, %s exact duplicates, %s quarantined",
        *(f"{read:,}", len(files), f"{examples:,}", f"{duplicates:,}", f"{quarantined:,}"),
    )
    return ledger


def _require_same_corpus(folder: RunFolder, identity: dict[str, Any]) -> None:
    """Refuse a folder of another corpus; throw away an unfinished ingest of other files.

    An unfinished ingest may hold work of a file that has been repaired since, and nothing builds on
    it yet.
    """
    plan = folder.corpus / "plan.json"
    stored = folder.corpus_identity()
    if stored is None:
        # Without broken files, what was read before is the same whether they may be skipped.
        planned = read_json(plan)
        if planned is None or _tolerant(planned) != _tolerant(identity):
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
    """An identity without what tells no corpora apart; settings unknown to it have defaults."""
    corpus = CorpusConfig().model_dump(mode="json") | identity["corpus"]
    del corpus["skip_broken_files"]
    return {**identity, "corpus": corpus}


def _spool(
    files: list[InputFile], config: RunConfig, folder: RunFolder
) -> tuple[int, int, int, list[Path], tuple[LostFile, ...]]:
    items = [{"index": i, "file": asdict(f)} for i, f in enumerate(files)]
    workers, _, _ = pool_shape(config.ray.model_copy(update={"gpus_per_worker": 0}), len(items))
    args = (config.corpus, folder.spool, folder.quarantine)
    read = quarantined = 0
    runs: list[str] = []
    lost: list[LostFile] = []
    empty: list[str] = []
    for result in stream("read", items, _spooler, args, workers=workers):
        read += result["read"]
        quarantined += result["quarantined"]
        runs += result["runs"]
        if result["lost"]:
            lost.append(LostFile(**result["lost"]))
        elif not result["read"]:
            empty.append(files[result["index"]].path)
    if empty:
        log.warning("ingest: %d file(s) hold no row, first %s", len(empty), min(empty))
    lost.sort(key=lambda x: x.path)
    paths = [folder.spool / r for r in sorted(runs)]
    return read - quarantined, read, quarantined, paths, tuple(lost)


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
        return {"index": item["index"], **asdict(summary)}

    return work


def _sharder(n_shards: int, runs: list[Path]) -> Callable[[Item], Item]:
    def work(item: Item) -> Item:
        return asdict(build_shard(item["shard"], n_shards, runs, Path(item["target"])))

    return work
