"""What the workers of capture do. They import torch; the driver does not."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from threading import Lock
from typing import Any

import pyarrow as pa

from mads_ray.capture.history import discard, read_history, take_orphans
from mads_ray.config import CaptureConfig
from mads_ray.corpus.quarantine import QUARANTINE_SCHEMA, quarantine_row
from mads_ray.hashing import add_checksums, checksum
from mads_ray.ledger import StateRecord
from mads_ray.pipeline.capture.model_tasks import shard_of, shard_task
from mads_ray.pipeline.capture.opening import (
    committed_result,
    journal_of,
    open_configured,
    refuse_sick_node,
)
from mads_ray.pipeline.runtime.owner import lost_with_nodes
from mads_ray.pipeline.runtime.tasks import Item, Work
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest
from mads_ray.storage import write_json, write_parquet
from mads_ray.stored.examples import read_examples

log = logging.getLogger(__name__)


def capturer(
    capture: CaptureConfig, manifest: StatesManifest, folder: RunFolder, cpus: int, gpus: float
) -> Work:
    """Work that captures one shard: quarantine, states, and the marker that commits them."""
    from mads_ray.capture.calibration import Calibration
    from mads_ray.capture.calibration_sample import CalibrationSample
    from mads_ray.capture.engines.engine import StateRows
    from mads_ray.capture.reducer import StateReducer
    from mads_ray.capture.shard import capture_shard, tokenised_windows
    from mads_ray.capture.tokenised import TokenisedShard

    # The precision that calibration found, also on a node whose own "auto" would differ.
    model = open_configured(capture.model_copy(update={"dtype": manifest.dtype}), cpus, gpus)
    engine = model.engine
    facts = {k: v for k, v in model.facts.items() if k != "hidden_size"}
    manifest.require(facts, folder.states)
    calibration = Calibration.load(folder.calibration)
    manifest.require({"calibration": calibration.digest()}, folder.states)
    # The manifest decides on the columns: all shards have the same.
    reducer = StateReducer(calibration, engine.device, manifest.hidden_dim, manifest.raw)
    rows_as = StateRows(reducer, folder.calibration)
    sample = CalibrationSample(folder.sample)
    render = partial(tokenised_windows, model.renderer)
    # Where a worker has two shards, one is read or written while the other is computed.
    turn = Lock()

    def work(item: Item, tokens: pa.Buffer | None = None) -> Item:
        result = captured_once(item["shard"], tokens)
        # Ray Data ties a shard to its actor, which may find no room after its node was lost.
        is_lost = lost_with_nodes()
        for key in take_orphans(folder.open, is_lost) if is_lost else ():
            if (shard := shard_of(key, manifest.calibration)) is not None:
                log.warning("goes on with shard %d, whose node was lost", shard)
                captured_once(shard, None)
        return result

    def captured_once(shard: int, tokens: pa.Buffer | None) -> Item:
        task = shard_task(folder, shard, manifest.calibration)
        if (committed := committed_result(folder, task)) is not None:
            return committed  # of a worker whose answer did not reach the driver
        table = read_examples(folder.shard_file(shard))
        known = sample.lookup(table.column("uid").to_pylist())
        tokenised = render if tokens is None else TokenisedShard(tokens)
        with ExitStack() as until_committed:
            with turn:
                journal = until_committed.enter_context(journal_of(folder, task))
                refuse_sick_node(journal, task.key, table.num_rows)
                states, stats, seconds = capture_shard(
                    engine, tokenised, rows_as, table, known, journal
                )
            if (committed := committed_result(folder, task)) is not None:
                return committed  # of a worker that took over while this one was unreachable
            _write_quarantine(folder, shard, table, stats.failures)
            write_parquet(folder.state_file(shard), states)
            history = read_history(folder.open, task.key)
            captured = checksum(states.column("uid").to_pylist())
            failed = table.column("uid").take(pa.array(sorted(stats.failures), pa.int64()))
            record = StateRecord(
                shard=shard,
                captured=states.num_rows,
                quarantined=len(stats.failures),
                checksum=add_checksums([captured, checksum(failed.to_pylist())]),
                captured_checksum=captured,
                calibration=manifest.calibration,
                tokens=stats.tokens,
                padded_tokens=stats.padded_tokens,
                cut_rows=stats.cut_rows,
                seconds=round(seconds, 3),
                processes=history.processes,
                repeated=history.repeated,
            )
            write_json(task.marker, asdict(record))  # the commit
            discard(folder.open, task.key)
        lengths = states.column("n_tokens").to_pylist()
        at_peak = engine.peak.seconds(stats.tokens, lengths) if engine.peak else 0.0
        return asdict(record) | {"at_peak_s": at_peak, "lost": journal.history.lost}

    return work


def _write_quarantine(
    folder: RunFolder, shard: int, table: pa.Table, failures: dict[int, Any]
) -> None:
    target = folder.quarantine / f"part-capture-{shard:05d}.parquet"
    if not failures:
        target.unlink(missing_ok=True)
    else:
        rows = table.select(["source_file", "source_row", "raw"]).take(
            pa.array(sorted(failures), pa.int64())
        )
        bad = [
            quarantine_row(
                {k: row[k] for k in ("source_file", "source_row")}, failures[i], row["raw"]
            )
            for i, row in zip(sorted(failures), rows.to_pylist(), strict=True)
        ]
        write_parquet(target, pa.Table.from_pylist(bad, QUARANTINE_SCHEMA))
