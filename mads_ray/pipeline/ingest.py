"""Stage 1: turn the corpus into canonical shards and a ledger."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mads_ray.config import CorpusConfig
from mads_ray.corpus.reading.discovery import Discovered, InputFile, discover
from mads_ray.corpus.shards import shard_count, shard_groups
from mads_ray.corpus.spool.cuts import cuts_of, pieces_of, stored_cut
from mads_ray.corpus.spool.first_pass import PieceSummary, drop_rows, stored_summary
from mads_ray.corpus.spool.pieces import Piece
from mads_ray.corpus.tally import Tally
from mads_ray.corpus.telling import reason_text
from mads_ray.errors import ConfigError, CorpusError, IncompleteError, MismatchError
from mads_ray.ledger import CorpusLedger, LostFile, ShardRecord
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.ingest_workers import cutter, sharder, spooler
from mads_ray.pipeline.reading import tell_ingest
from mads_ray.pipeline.runtime.data_stream import stream
from mads_ray.pipeline.runtime.prometheus import observe
from mads_ray.pipeline.runtime.session import PoolShape, pool_shape
from mads_ray.pipeline.runtime.watch import Traces
from mads_ray.run_folder import CorpusIdentity, RunFolder
from mads_ray.storage import write_json
from mads_ray.stored.records import read_marker

log = logging.getLogger(__name__)

_REASONS = 5
_SPOOL_FORMAT = {"format": 2}


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
    records = _shard(run, spooled, files, shard_count(tally.usable, corpus.shard_rows))
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
    for leftover in (folder.spool, folder.ingesting):
        shutil.rmtree(leftover, ignore_errors=True)
    log.info(
        "ingest: %s rows read from %d file(s): %s examples, %s exact duplicates, %s quarantined",
        *(f"{read:,}", len(files), f"{examples:,}", f"{duplicates:,}"),
        f"{ledger.quarantined:,}",
    )
    tell_ingest(ledger, corpus, folder)
    return ledger


@dataclass(slots=True)
class _Spooled:
    """Sums over all input files. `worst_file` is the one with most rows in quarantine.

    `nbytes`: what all runs hold in memory.
    """

    read: int = 0
    tally: Tally = field(default_factory=Tally)
    runs: list[Path] = field(default_factory=list)
    nbytes: int = 0
    lost: list[LostFile] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    worst_file: dict[str, Any] | None = None

    def add(self, pieces: list[Piece], found: list[PieceSummary], folder: RunFolder) -> None:
        """Add one file, by all its pieces in their order."""
        file = pieces[0].file
        lost = next((f.lost for f in found if f.lost is not None), None)
        if lost is not None:  # nothing of a broken file is kept
            self.lost.append(lost)
            for piece, of_piece in zip(pieces, found, strict=True):
                drop_rows(piece, of_piece.runs, folder.spool, folder.quarantine)
            return
        tally = Tally()
        for of_piece in found:
            tally.add(of_piece.tally)
            self.runs += [folder.spool / name for name in of_piece.runs]
            self.nbytes += of_piece.nbytes
        read, bad, worst = sum(f.read for f in found), tally.quarantined, self.worst_file
        self.read += read
        self.tally.add(tally)
        if not read:
            self.empty.append(file.path)
        if bad and (worst is None or bad > worst["quarantined"]):
            self.worst_file = {"file": file.path, "read": read, "quarantined": bad}


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
    _require_same_spool(folder)
    pieces = _cut(run, files)
    items = [piece.to_json() for of_file in pieces for piece in of_file]
    for _ in stream("read", items, spooler, (corpus, folder), *_cpu_pool(run, len(items))):
        pass  # the marker of each piece holds its summary
    spooled = _Spooled()
    for of_file in pieces:  # in one order, whichever worker ended first
        found = [stored_summary(folder.spool, piece) for piece in of_file]
        there = [f for f in found if f is not None]
        if len(there) < len(of_file):
            raise IncompleteError(f"{folder.spool} lacks what was found in {of_file[0].file.path}")
        spooled.add(of_file, there, folder)
    return spooled


def _require_same_spool(folder: RunFolder) -> None:
    """Remove what an older version read; the shards that it wrote are as they would be now."""
    path = folder.spool / "format.json"
    if read_marker(path, dict) != _SPOOL_FORMAT:
        shutil.rmtree(folder.spool, ignore_errors=True)
        shutil.rmtree(folder.quarantine, ignore_errors=True)
        write_json(path, _SPOOL_FORMAT)


def _cut(run: Run, files: list[InputFile]) -> list[list[Piece]]:
    """The pieces of each file. Only large files need a look before they are read."""
    spool = run.output.spool
    cuts = [(i, f, c) for i, f in enumerate(files) for c in range(cuts_of(f))]
    items = [{"index": i, "file": asdict(f), "cut": c} for i, f, c in cuts]
    for _ in stream("cut", items, cutter, (run.output,), *_cpu_pool(run, len(items))):
        pass  # the marker of each cut holds what was found
    pieces = []
    for i, file in enumerate(files):
        found = [stored_cut(spool, i, c) for c in range(cuts_of(file))]
        there = [f for f in found if f is not None]
        if len(there) < len(found):
            raise IncompleteError(f"{spool} lacks the pieces of {file.path}")
        pieces.append(pieces_of(i, file, there))
    return pieces


def _shard(run: Run, spooled: _Spooled, files: list[InputFile], n_shards: int) -> list[ShardRecord]:
    shape, traces = _cpu_pool(run, n_shards)
    groups = shard_groups(n_shards, spooled.nbytes, shape.workers)
    items = [{"first": g.start, "stop": g.stop} for g in groups]
    args = (n_shards, spooled.runs, [f.path for f in files], run.output)
    results = stream("shard", items, sharder, args, shape, traces)
    records = (ShardRecord(**r) for of_group in results for r in of_group["shards"])
    return sorted(records, key=lambda r: r.shard)


def _cpu_pool(run: Run, tasks: int) -> tuple[PoolShape, Traces]:
    config = run.config.ray.model_copy(update={"gpus_per_worker": 0, "cpus_per_worker": 1})
    return pool_shape(config, tasks), Traces(folder=run.output.ingesting)
