"""Stages 2 and 3: calibrate on a hashed sample, then capture every shard that has no marker."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mads_ray.capture.sample import GROUP_ROWS
from mads_ray.config import CaptureConfig, RunConfig
from mads_ray.corpus.identity import add_checksums, checksum, seeded_hash
from mads_ray.corpus.ingest import QUARANTINE_SCHEMA, quarantine_row
from mads_ray.errors import MismatchError
from mads_ray.ledger import CorpusLedger, RunFolder, StateRecord
from mads_ray.pipeline.progress import Progress
from mads_ray.pipeline.session import pool_shape
from mads_ray.pipeline.stream import Item, Work, map_tasks, stream
from mads_ray.states import StatesManifest
from mads_ray.storage import write_json, write_parquet

if TYPE_CHECKING:
    from mads_ray.capture.transformers_engine import Pooled

log = logging.getLogger("mads_ray")

_COMMIT = re.compile("[0-9a-f]{40}")


def capture(config: RunConfig, folder: RunFolder, ledger: CorpusLedger) -> list[StateRecord]:
    """Return the marker of every shard, capturing those that have none.

    Raises MismatchError when the folder holds states of another model or calibration.
    """
    manifest = _manifest(config, folder, ledger)
    done = folder.state_records(ledger.shards)
    present = {r.shard for r in done}
    todo = [s for s in ledger.shards if s.shard not in present]
    progress = Progress("capture", ledger.examples, sum(r.captured + r.quarantined for r in done))
    items = [{"shard": s.shard} for s in todo]
    workers, cpus, gpus = pool_shape(config.ray, len(items)) if items else (1, 1, 0.0)
    args = (config.capture, manifest, folder, cpus)
    for result in stream(items, _capturer, args, workers=workers, cpus=cpus, gpus=gpus):
        progress.add(result["captured"] + result["quarantined"], result["tokens"])
    progress.close()
    records = folder.check_states(ledger)
    shutil.rmtree(folder.sample, ignore_errors=True)
    return records


def wanted_manifest(config: RunConfig) -> dict[str, Any]:
    """The settings that stored states must agree with; None where any value will do."""
    capture = config.capture
    return {
        "engine": "transformers",
        "model": capture.model,
        # A branch or tag is resolved by the workers, which compare what they find.
        "revision": capture.revision if _COMMIT.fullmatch(capture.revision or "") else None,
        "dtype": None if capture.dtype == "auto" else capture.dtype,
        "neurons_per_layer": capture.neurons_per_layer,
        "max_tokens": capture.max_tokens,
        "calibration_rows": capture.calibration_rows,
    }


def _manifest(config: RunConfig, folder: RunFolder, ledger: CorpusLedger) -> StatesManifest:
    if folder.manifest.exists():
        manifest = StatesManifest.load(folder.manifest)
        wanted = wanted_manifest(config)
        wanted["neurons_per_layer"] = min(wanted["neurons_per_layer"], manifest.width)
        if (manifest.hidden_dim > 0) != config.capture.store_hidden:
            wanted["hidden_dim"] = "stored" if config.capture.store_hidden else 0
        manifest.require(wanted, folder.states)
        return manifest
    return _calibrate(config, folder, ledger)


def _calibrate(config: RunConfig, folder: RunFolder, ledger: CorpusLedger) -> StatesManifest:
    from mads_ray.capture.model import inspect_model  # torch: only where something is captured

    log.info("calibrate: model %s", config.capture.model)
    inspect_model(config.capture.model, config.capture.revision)  # fail before the pool starts
    sample = _sample(config, folder, ledger)
    items = [
        {"group": i, "rows": sample[start : start + GROUP_ROWS]}
        for i, start in enumerate(range(0, len(sample), GROUP_ROWS))
    ]
    workers, cpus, gpus = pool_shape(config.ray, len(items))
    progress = Progress("calibrate", len(sample))
    facts: list[Item] = []
    args = (config.capture, folder, cpus)
    for result in stream(items, _calibrator, args, workers=workers, cpus=cpus, gpus=gpus):
        progress.add(result["rows"], result["tokens"])
        facts.append(result["model"])
    progress.close()
    if any(fact != facts[0] for fact in facts):
        raise MismatchError(
            f"workers loaded different models or precisions: {facts}. Fix the revision "
            "(--revision) and the precision (--set capture.dtype=...)"
        )
    call = (folder, config.capture.neurons_per_layer, config.capture.sketch_dim)
    (fitted,) = map_tasks(_fit, [call])
    hidden = facts[0].pop("hidden_size")
    manifest = StatesManifest(
        engine="transformers",
        hidden_dim=hidden if config.capture.store_hidden else 0,
        max_tokens=config.capture.max_tokens,
        calibration_rows=config.capture.calibration_rows,
        **facts[0],
        **fitted,
    )
    manifest.save(folder.manifest)
    return manifest


def _sample(config: RunConfig, folder: RunFolder, ledger: CorpusLedger) -> list[tuple[str, int]]:
    """(uid, shard) of the examples with the smallest hashes, in hash order.

    The run's seed has no part in it: states of one corpus and model are the same for every seed.
    """
    wanted = config.capture.calibration_rows
    # Twice the expected share, so that the driver sees a few thousand uids, not the corpus.
    share = min(1.0, (2 * wanted + 64) / ledger.examples)
    limit = 2**64 - 1 if share == 1.0 else int(share * 2**64)
    calls = ((folder.shard_file(s.shard), s.shard, limit) for s in ledger.shards)
    found = sorted(c for part in map_tasks(_hashed_below, calls) for c in part)
    return [(uid, shard) for _, uid, shard in found[:wanted]]


def _hashed_below(path: Path, shard: int, limit: int) -> list[tuple[int, str, int]]:
    uids = pq.read_table(path, columns=["uid"]).column("uid").to_pylist()
    hashes = seeded_hash(uids, seed=0, stream=2**32) if uids else np.empty(0, np.uint64)
    return [(int(hashes[i]), uids[i], shard) for i in np.flatnonzero(hashes <= np.uint64(limit))]


def _fit(folder: RunFolder, k: int, sketch_dim: int) -> dict[str, Any]:
    from mads_ray.capture.calibration import fit_calibration
    from mads_ray.capture.sample import CalibrationSample

    calibration = fit_calibration(CalibrationSample(folder.sample).peaks(), k, sketch_dim)
    calibration.save(folder.calibration)
    return {
        "neurons_per_layer": calibration.neurons_per_layer,
        "sketch_dim": calibration.projection_DS.shape[1],
        "calibration": calibration.digest(),
    }


# --- what runs inside the actors ---


def _load(capture: CaptureConfig, cpus: int) -> tuple[Any, Any, Item, int]:
    """(engine, renderer, facts for the manifest, token budget)."""
    # A fixed thread count: the number of workers must not change a matrix product's last bits.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    from mads_ray.capture.model import load_model
    from mads_ray.capture.prompts import PromptRenderer
    from mads_ray.capture.transformers_engine import TransformersEngine

    torch.set_num_threads(cpus)
    model, tokenizer, identity = load_model(capture.model, capture.revision, capture.dtype)
    engine = TransformersEngine(model)
    positions = getattr(model.config, "max_position_embeddings", None) or capture.max_tokens
    renderer = PromptRenderer(tokenizer, min(capture.max_tokens, int(positions)))
    facts = {
        "model": identity.name,
        "revision": identity.revision,
        "dtype": identity.dtype,
        "layers": engine.layers,
        "width": engine.width,
        "hidden_size": engine.hidden_size,
    }
    budget = capture.token_budget or (2048 if engine.device.type == "cpu" else 16384)
    return engine, renderer, facts, budget


def _calibrator(capture: CaptureConfig, folder: RunFolder, cpus: int) -> Work:
    from mads_ray.capture.sample import write_group
    from mads_ray.capture.shard import RunStats, run_batches, tokenise

    engine, renderer, facts, budget = _load(capture, cpus)

    def work(item: Item) -> Item:
        order = [uid for uid, _ in item["rows"]]
        by_shard = defaultdict(list)
        for uid, shard in item["rows"]:
            by_shard[shard].append(uid)
        texts: dict[str, str] = {}
        for shard, uids in sorted(by_shard.items()):
            table = pq.read_table(
                folder.shard_file(shard),
                columns=["uid", "messages"],
                filters=pc.field("uid").isin(uids),
            )
            texts.update((row["uid"], row["messages"]) for row in table.to_pylist())
        stats = RunStats()
        examples = tokenise(renderer, [texts[uid] for uid in order], stats)
        pooled_rows: dict[int, tuple[Any, Any]] = {}

        def keep(rows: Sequence[int], pooled: Pooled) -> None:
            arrays = (pooled.peak_BLF.cpu().numpy(), pooled.hidden_BH.cpu().numpy())
            pooled_rows.update(zip(rows, zip(*arrays, strict=True), strict=True))

        run_batches(engine, examples, budget, stats, keep)
        if pooled_rows:
            kept = sorted(pooled_rows)
            peak, hidden = (np.stack([pooled_rows[i][part] for i in kept]) for part in (0, 1))
            write_group(folder.sample, item["group"], [order[i] for i in kept], peak, hidden)
        return {"rows": len(order), "tokens": stats.tokens, "model": facts}

    return work


def _capturer(
    capture: CaptureConfig, manifest: StatesManifest, folder: RunFolder, cpus: int
) -> Work:
    from mads_ray.capture.calibration import Calibration
    from mads_ray.capture.sample import CalibrationSample
    from mads_ray.capture.shard import capture_shard
    from mads_ray.capture.state import StateReducer

    # The precision that calibration found, also on a node whose own "auto" would differ.
    pinned = capture.model_copy(update={"dtype": manifest.dtype})
    engine, renderer, facts, budget = _load(pinned, cpus)
    manifest.require({k: v for k, v in facts.items() if k != "hidden_size"}, folder.states)
    calibration = Calibration.load(folder.calibration)
    manifest.require({"calibration": calibration.digest()}, folder.states)
    reducer = StateReducer(calibration, engine.device)
    sample = CalibrationSample(folder.sample)

    def work(item: Item) -> Item:
        shard = item["shard"]
        table = pq.read_table(folder.shard_file(shard))
        known = sample.lookup(table.column("uid").to_pylist())
        states, stats, seconds = capture_shard(
            engine, renderer, reducer, table, budget, capture.store_hidden, known
        )
        _write_quarantine(folder, shard, table, stats.failures)
        write_parquet(folder.state_file(shard), states)
        captured = checksum(states.column("uid").to_pylist())
        failed = table.column("uid").take(pa.array(sorted(stats.failures), pa.int64()))
        record = StateRecord(
            shard=shard,
            captured=states.num_rows,
            quarantined=len(stats.failures),
            checksum=add_checksums([captured, checksum(failed.to_pylist())]),
            captured_checksum=captured,
            tokens=stats.tokens,
            padded_tokens=stats.padded_tokens,
            cut_rows=stats.cut_rows,
            seconds=round(seconds, 3),
        )
        write_json(folder.state_marker(shard), asdict(record))  # the commit
        return asdict(record)

    return work


def _write_quarantine(
    folder: RunFolder, shard: int, table: pa.Table, failures: dict[int, Any]
) -> None:
    target = folder.quarantine / f"part-capture-{shard:05d}.parquet"
    target.unlink(missing_ok=True)
    if failures:
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
