"""Stages 2 and 3: calibrate on a hashed sample, then capture every shard that has no marker.

With `capture.calibration_from` stage 2 is a copy of another run's calibration, which brings its
model and settings along.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mads_ray.capture.attempt import pulses, read_past, witness
from mads_ray.capture.sample import GROUP_ROWS
from mads_ray.config import CaptureConfig, RunConfig
from mads_ray.corpus.identity import seeded_hash
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.ledger import CorpusLedger, RunFolder, StateRecord
from mads_ray.pipeline.capture_workers import (
    calibrator,
    capturer,
    group_key,
    group_marker,
    shard_key,
)
from mads_ray.pipeline.pool import Pool, Watch
from mads_ray.pipeline.progress import Progress
from mads_ray.pipeline.session import pool_shape
from mads_ray.pipeline.stream import Item, Work, map_tasks
from mads_ray.states import StatesManifest
from mads_ray.storage import read_json, write_json, write_whole

log = logging.getLogger("mads_ray")

_CALIBRATED = (
    "neurons_per_layer",
    "max_tokens",
    "tokens",
    "pooling",
    "hook_module",
    "compile",
    "tensor_parallel",
    "calibration_rows",
    "sketch_dim",
)


def capture(config: RunConfig, folder: RunFolder, ledger: CorpusLedger) -> list[StateRecord]:
    """Return the marker of every shard, capturing those that have none.

    Raises MismatchError when the folder holds states of another model or calibration, or when
    `calibration_from` names a calibration of other settings; ConfigError when it names none.
    """
    lender = _lender(config.capture, folder)
    if lender is not None:
        lent = _lent_settings(config.capture, StatesManifest.load(lender.manifest), lender)
        config = config.model_copy(update={"capture": lent})
    manifest = calibrated(config, folder, ledger, lender)
    done = folder.state_records(ledger.shards, manifest.calibration)
    present = {r.shard for r in done}
    todo = [s for s in ledger.shards if s.shard not in present]
    progress = Progress("capture", ledger.examples, sum(r.captured + r.quarantined for r in done))
    for shard in todo:  # a marker that does not fit its shard must not look like this run's
        folder.state_marker(shard.shard).unlink(missing_ok=True)
    items = [{"shard": s.shard} for s in todo]

    def key(item: Item) -> str:
        return shard_key(item["shard"], manifest.calibration)

    def marker(item: Item) -> Path:
        return folder.state_marker(item["shard"])

    pool = _pool(config, folder, "capture", items, key, marker, capturer, manifest)
    for result in pool.run():
        progress.add(
            result["captured"] + result["quarantined"],
            result["tokens"],
            padded_tokens=result["padded_tokens"],
            quarantined=result["quarantined"],
            at_peak_s=result.get("at_peak_s", 0.0),
            device_s=result["seconds"] * pool.gpus,
        )
    progress.close()
    records = folder.check_states(ledger, manifest.calibration)
    shutil.rmtree(folder.sample, ignore_errors=True)
    shutil.rmtree(folder.open, ignore_errors=True)
    return records


def _pool(
    config: RunConfig,
    folder: RunFolder,
    name: str,
    items: list[Item],
    key: Callable[[Item], str],
    marker: Callable[[Item], Path],
    set_up: Callable[..., Work],
    *about: Any,
) -> Pool:
    """As many models as the cluster has room for, to work through items."""

    asked = False

    def shape(tasks: int) -> tuple[int, int, float]:
        nonlocal asked
        try:
            found = pool_shape(config.ray, tasks, config.capture.tensor_parallel)
        except ConfigError:
            if not asked:
                raise
            # A node has gone since: with as many workers as there is room for.
            fewer = config.ray.model_copy(update={"workers": None})
            found = pool_shape(fewer, tasks, config.capture.tensor_parallel)
        asked = True
        return found

    _, cpus, gpus = shape(len(items)) if items else (0, 1, 0.0)
    watch = Watch(
        key,
        lambda: pulses(folder.open),
        lambda item: read_past(folder.open, key(item)).settled,
        lambda item: read_json(marker(item)),
        lambda item: witness(folder.open, key(item)),
        config.ray.hang_s,
    )
    args = (config.capture, *about, folder, cpus, gpus)
    return Pool(name, items, set_up, args, shape, watch, gpus)


def _requested(capture: CaptureConfig) -> dict[str, Any]:
    """The settings that stored states must agree with."""
    return {
        "requested_revision": capture.revision,
        **capture.model_dump(
            include={*_CALIBRATED, "store_hidden", "store_raw", "calibration_from"}
        ),
    }


def _which(capture: CaptureConfig) -> tuple[str, str | None, str | None]:
    return capture.model, capture.revision, capture.hook_module


def calibrated(
    config: RunConfig, folder: RunFolder, ledger: CorpusLedger, lender: RunFolder | None = None
) -> StatesManifest:
    """The identity of the folder's states, calibrating where that was not done yet."""
    if not folder.manifest.exists():
        if lender is not None:
            return _borrow(config.capture, folder, lender)
        return _calibrate(config, folder, ledger)
    from mads_ray.capture.model import local_revision

    manifest = StatesManifest.load(folder.manifest)
    wanted = {
        "engine": config.capture.engine,
        "model": config.capture.model,
        **_requested(config.capture),
    }
    if not config.capture.store_raw:
        del wanted["store_raw"]  # a column too many disturbs nobody
    if lender is not None:
        del wanted["calibration_from"]  # the other run may have moved: its calibration counts
        wanted["calibration"] = StatesManifest.load(lender.manifest).calibration
    if config.capture.dtype != "auto":
        wanted["dtype"] = config.capture.dtype
    # A model on this machine may have changed; one of the hub is pinned by its revision.
    here = local_revision(config.capture.model)
    if here is not None:
        wanted["revision"] = here
    manifest.require(wanted, folder.states)
    return manifest


def _lender(capture: CaptureConfig, folder: RunFolder) -> RunFolder | None:
    """The run folder whose calibration to use; None to fit one."""
    if capture.calibration_from is None:
        return None
    lender = RunFolder(capture.calibration_from)
    if lender.manifest.exists() and lender.calibration.exists():
        return lender
    if folder.manifest.exists():
        borrowed_from = StatesManifest.load(folder.manifest).requested.get("calibration_from")
        if borrowed_from == str(lender.root):
            return folder  # it has its own copy, and outlives the other run
    raise ConfigError(
        f"capture.calibration_from: {lender.root} holds no finished calibration; name the output "
        "folder of a run that captured states (`mads-ray capture` or `mads-ray run`)"
    )


def _lent_settings(
    capture: CaptureConfig, manifest: StatesManifest, lender: RunFolder
) -> CaptureConfig:
    """`capture` with the model and the settings that belong to the lender's calibration.

    A default stands for "as stored"; any other value must be the stored one, else MismatchError.
    (Whether a default was typed does not count: a run.json holds all of them, and must repeat.)
    """
    from mads_ray.capture.model import local_revision

    requested = manifest.settings
    stored = {"engine": manifest.engine, "model": manifest.model, "dtype": manifest.dtype}
    stored |= {name: requested[name] for name in _CALIBRATED}
    default = CaptureConfig()
    asked = {n: getattr(capture, n) for n in stored if getattr(capture, n) != getattr(default, n)}
    if capture.revision not in (None, manifest.revision):
        asked["requested_revision"] = capture.revision
    here = local_revision(manifest.model)
    found = manifest.differences(asked | ({} if here is None else {"revision": here}))
    if found:
        raise MismatchError(
            f"the calibration in {lender.states} is of another model or other settings:\n  "
            + "\n  ".join(found)
            + "\nLeave these settings out to use the stored ones, or name another run in "
            "capture.calibration_from."
        )
    # A hub model is pinned to the very commit, in case its branch has moved on.
    revision = manifest.revision if here is None else requested["requested_revision"]
    assert capture.calibration_from is not None
    root = str(RunFolder(capture.calibration_from).root)
    return capture.model_copy(update={**stored, "revision": revision, "calibration_from": root})


def _borrow(capture: CaptureConfig, folder: RunFolder, lender: RunFolder) -> StatesManifest:
    """Copy the lender's calibration; the manifest, which is written last, commits it."""
    from mads_ray.capture.model import inspect_model

    log.info("calibration of %s: model %s", lender.root, capture.model)
    hidden = inspect_model(*_which(capture))
    # Pooled activations that an interrupted calibration of other settings may have left behind.
    shutil.rmtree(folder.sample, ignore_errors=True)
    lent = StatesManifest.load(lender.manifest)
    (digest,) = map_tasks(_copy, [(lender, folder)])
    lent.require({"calibration": digest}, lender.states)
    manifest = replace(
        lent,
        hidden_dim=hidden if capture.store_hidden else 0,
        calibration_tokens=0,
        calibration_padded_tokens=0,
        requested=_requested(capture),
        raw=capture.store_raw,
    )
    manifest.save(folder.manifest)
    return manifest


def _copy(lender: RunFolder, folder: RunFolder) -> str:
    from mads_ray.capture.calibration import Calibration

    def write(temporary: Path) -> None:
        shutil.copyfile(lender.calibration, temporary)

    write_whole(folder.calibration, write)
    return Calibration.load(folder.calibration).digest()


def _calibrate(config: RunConfig, folder: RunFolder, ledger: CorpusLedger) -> StatesManifest:
    # torch: only where something is captured
    from mads_ray.capture.model import inspect_model, local_revision

    log.info("calibrate: model %s", config.capture.model)
    inspect_model(*_which(config.capture))  # fail before the pool starts
    sample = _sample(config, folder, ledger)
    plan = {
        "capture": config.capture.model_dump(mode="json"),
        "local_revision": local_revision(config.capture.model),
        "rows": sample,
    }
    _require_same_sample(folder, plan)
    items: list[Item] = [
        {"group": i, "rows": sample[start : start + GROUP_ROWS]}
        for i, start in enumerate(range(0, len(sample), GROUP_ROWS))
    ]
    stored = [read_json(group_marker(folder, item["group"])) for item in items]
    results: list[Item] = [result for result in stored if result is not None]
    todo = [item for item, result in zip(items, stored, strict=True) if result is None]
    progress = Progress("calibrate", len(sample), sum(r["rows"] for r in results))

    def key(item: Item) -> str:
        return group_key(item["group"])

    def marker(item: Item) -> Path:
        return group_marker(folder, item["group"])

    for result in _pool(config, folder, "calibrate", todo, key, marker, calibrator).run():
        progress.add(result["rows"], result["tokens"], padded_tokens=result["padded_tokens"])
        results.append(result)
    progress.close()
    facts = [result["model"] for result in results]
    tokens = sum(result["tokens"] for result in results)
    padded = sum(result["padded_tokens"] for result in results)
    if any(fact != facts[0] for fact in facts):
        raise MismatchError(
            f"workers loaded different models or precisions: {facts}. Fix the revision "
            "(--revision) and the precision (--set capture.dtype=...)"
        )
    call = (folder, config.capture.neurons_per_layer, config.capture.sketch_dim)
    (fitted,) = map_tasks(_fit, [call])
    hidden = facts[0].pop("hidden_size")
    manifest = StatesManifest(
        hidden_dim=hidden if config.capture.store_hidden else 0,
        max_tokens=config.capture.max_tokens,
        calibration_tokens=tokens,
        calibration_padded_tokens=padded,
        requested=_requested(config.capture),
        raw=config.capture.store_raw,
        **facts[0],
        **fitted,
    )
    manifest.save(folder.manifest)
    return manifest


def _require_same_sample(folder: RunFolder, plan: dict[str, Any]) -> None:
    """Throw away groups that an interrupted calibration of other settings left behind."""
    plan = json.loads(json.dumps(plan))
    if read_json(folder.sample / "plan.json") != plan:
        shutil.rmtree(folder.sample, ignore_errors=True)
        shutil.rmtree(folder.open, ignore_errors=True)
        write_json(folder.sample / "plan.json", plan)


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

    calibration = fit_calibration(CalibrationSample(folder.sample).pooled(), k, sketch_dim)
    calibration.save(folder.calibration)
    return {
        "neurons_per_layer": calibration.neurons_per_layer,
        "sketch_dim": calibration.projection_DS.shape[1],
        "calibration": calibration.digest(),
    }
