"""What the workers of calibration and capture do. They import torch; the driver does not."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mads_ray.capture.journal import Journal, discard, heartbeats, read_history, record_death
from mads_ray.config import CaptureConfig
from mads_ray.corpus.shards import QUARANTINE_SCHEMA, quarantine_row
from mads_ray.errors import ConfigError, IncompleteError
from mads_ray.hashing import add_checksums, checksum
from mads_ray.ledger import StateRecord
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.runtime.actor_pool import ActorPool, WorkStatus
from mads_ray.pipeline.runtime.session import pool_shape
from mads_ray.pipeline.runtime.tasks import Item, Work
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest
from mads_ray.storage import read_json, write_json, write_parquet
from mads_ray.stored.examples import read_examples

if TYPE_CHECKING:
    from mads_ray.capture.opened import OpenedModel


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A piece of work for a pool of models: its name in the journals, and the file that commits it
    and holds what the work returned."""

    key: str
    marker: Path


@dataclass(frozen=True, slots=True)
class GroupTask(ModelTask):
    """To pool a group of the calibration sample, given by the (uid, shard) of its rows."""

    group: int
    rows: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class ShardTask(ModelTask):
    """To capture a shard."""

    shard: int


def group_task(folder: RunFolder, group: int, rows: Sequence[tuple[str, int]]) -> GroupTask:
    """The task of a group of the calibration sample."""
    name = f"{group:05d}"
    return GroupTask(f"group-{name}", folder.sample / f"done-{name}.json", group, rows)


def shard_task(folder: RunFolder, shard: int, calibration: str) -> ShardTask:
    """The task of a shard under the calibration with this digest."""
    return ShardTask(f"part-{shard:05d}-{calibration[:8]}", folder.state_marker(shard), shard)


def open_configured(capture: CaptureConfig, cpus: int, gpus: float) -> OpenedModel:
    """The configured model, on a worker's share of a node."""
    from mads_ray.capture.engines.engine import EngineOptions
    from mads_ray.capture.opened import ModelSettings, open_model

    options = EngineOptions(
        pooling=capture.pooling,
        hook_module=capture.hook_module,
        max_tokens=capture.max_tokens,
        token_budget=capture.batch_tokens,
        memory_share=gpus if 0 < gpus < 1 else 1.0,
        compile=capture.compile,
        tensor_parallel=capture.tensor_parallel,
    )
    settings = ModelSettings(
        model=capture.model,
        revision=capture.revision,
        dtype=capture.dtype,
        engine=capture.engine,
        tokens=capture.token_scope,
        options=options,
    )
    return open_model(settings, threads=cpus)


def calibrator(capture: CaptureConfig, folder: RunFolder, cpus: int, gpus: float) -> Work:
    """Work that pools one group of the calibration sample."""
    from mads_ray.capture.calibration_sample import write_group
    from mads_ray.capture.engines.engine import PooledRows, RunStats, refuse_total_failure
    from mads_ray.capture.reducer import unpack_pooled
    from mads_ray.capture.shard import tokenise

    model = open_configured(capture, cpus, gpus)
    engine = model.engine

    def work(task: GroupTask) -> Item:
        if (committed := _committed(folder, task)) is not None:
            return committed
        order = [uid for uid, _ in task.rows]
        stats = RunStats()
        packed: dict[int, npt.NDArray[np.float32]] = {}

        def keep(rows: Sequence[int], packed_BW: npt.NDArray[np.float32]) -> None:
            packed.update(zip(rows, packed_BW, strict=True))

        with Journal(folder.open, task.key, _process_name()) as journal:
            _refuse_sick_node(journal, task.key, len(order))
            examples = tokenise(model.renderer, _texts(folder, task.rows), stats, journal)
            engine.run([examples], PooledRows(), stats, keep, journal)
        if packed:
            kept = sorted(packed)
            pooled = unpack_pooled(np.stack([packed[i] for i in kept]), engine.layers, engine.width)
            write_group(folder.sample, task.group, [order[i] for i in kept], *pooled)
        refuse_total_failure(stats, len(order))
        result = {
            "rows": len(order),
            "tokens": stats.tokens,
            "padded_tokens": stats.padded_tokens,
            "model": model.facts,
        }
        write_json(task.marker, result)
        discard(folder.open, task.key)
        return result

    return work


def _texts(folder: RunFolder, rows: Sequence[tuple[str, int]]) -> dict[int, str]:
    """Messages of some (uid, shard), by their place in this order."""
    uids_of = defaultdict(list)
    for uid, shard in rows:
        uids_of[shard].append(uid)
    texts: dict[str, str] = {}
    for shard, uids in sorted(uids_of.items()):
        mine = pc.field("uid").isin(uids)
        table = read_examples(folder.shard_file(shard), ["uid", "messages"], filters=mine)
        texts.update((row["uid"], row["messages"]) for row in table.to_pylist())
    return {i: texts[uid] for i, (uid, _) in enumerate(rows)}


def _refuse_sick_node(journal: Journal, key: str, rows: int) -> None:
    """Raise IncompleteError when too many rows ended their process to be the reason themselves."""
    poison = journal.history.poison
    if len(poison) > max(8, rows // 50):
        raise IncompleteError(
            f"{key}: {len(poison)} of {rows} rows ended the process that had them, which is no "
            f"matter of single rows: {next(iter(poison.values()))}. Look at the nodes; to try "
            "these rows again, remove the shard's files in states/open"
        )


def _committed(folder: RunFolder, task: ModelTask) -> Item | None:
    """What the work on a task returned, if it is done; then nobody needs its journals."""
    result: Item | None = read_json(task.marker)
    if result is not None:
        discard(folder.open, task.key)
    return result


def _process_name() -> str:
    return f"{socket.gethostname().split('.')[0]}-{os.getpid()}"


def capturer(
    capture: CaptureConfig, manifest: StatesManifest, folder: RunFolder, cpus: int, gpus: float
) -> Work:
    """Work that captures one shard: quarantine, states, and the marker that commits them."""
    from mads_ray.capture.calibration import Calibration
    from mads_ray.capture.calibration_sample import CalibrationSample
    from mads_ray.capture.engines.engine import StateRows
    from mads_ray.capture.reducer import StateReducer
    from mads_ray.capture.shard import capture_shard

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

    def work(task: ShardTask) -> Item:
        if (committed := _committed(folder, task)) is not None:
            return committed  # of a worker whose answer did not reach the driver
        with Journal(folder.open, task.key, _process_name()) as journal:
            table = read_examples(folder.shard_file(task.shard))
            known = sample.lookup(table.column("uid").to_pylist())
            _refuse_sick_node(journal, task.key, table.num_rows)
            states, stats, seconds = capture_shard(
                engine, model.renderer, rows_as, table, known, journal
            )
        if (committed := _committed(folder, task)) is not None:
            return committed  # of a worker that took over while this one was unreachable
        _write_quarantine(folder, task.shard, table, stats.failures)
        write_parquet(folder.state_file(task.shard), states)
        history = read_history(folder.open, task.key)
        captured = checksum(states.column("uid").to_pylist())
        failed = table.column("uid").take(pa.array(sorted(stats.failures), pa.int64()))
        record = StateRecord(
            shard=task.shard,
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
        return asdict(record) | {"at_peak_s": at_peak}

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


def model_pool(
    run: Run,
    capture: CaptureConfig,
    name: str,
    tasks: Sequence[ModelTask],
    set_up: Callable[..., Work],
    *about: Any,
) -> ActorPool[ModelTask]:
    """As many models as the cluster has room for, to work through tasks.

    `set_up(capture, *about, output, cpus, gpus)` opens a model in each worker.
    """
    asked, ray, folder = False, run.config.ray, run.output

    def shape(left: int) -> tuple[int, int, float]:
        nonlocal asked
        try:
            found = pool_shape(ray, left, capture.tensor_parallel)
        except ConfigError:
            if not asked:
                raise
            # A node has gone since: use as many workers as there is room for.
            fewer = ray.model_copy(update={"workers": None})
            found = pool_shape(fewer, left, capture.tensor_parallel)
        asked = True
        return found

    _, cpus, gpus = shape(len(tasks)) if tasks else (0, 1, 0.0)
    watch: WorkStatus[ModelTask] = WorkStatus(
        key=lambda task: task.key,
        heartbeats=lambda: heartbeats(folder.open),
        settled=lambda task: read_history(folder.open, task.key).settled,
        result=lambda task: read_json(task.marker),
        blame=lambda task: record_death(folder.open, task.key),
        hang_s=ray.hang_s,
    )
    args = (capture, *about, folder, cpus, gpus)
    return ActorPool(name, tasks, set_up, args, shape, watch, gpus)
