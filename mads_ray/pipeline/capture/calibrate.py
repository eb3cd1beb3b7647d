"""Stage 2: fit the calibration on a hashed sample, or copy that of another run."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mads_ray.capture.calibration_sample import GROUP_ROWS
from mads_ray.capture.prompts.clock import DATE
from mads_ray.config import CaptureConfig
from mads_ray.errors import MismatchError
from mads_ray.hashing import CALIBRATION_ROWS, seeded_hash
from mads_ray.ledger import CorpusLedger, ShardRecord
from mads_ray.pipeline.capture.calibration_from import copy_calibration, requested_of, which
from mads_ray.pipeline.capture.calibrator import calibrator
from mads_ray.pipeline.capture.model_tasks import group_task, on_models
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.runtime.progress import Progress
from mads_ray.pipeline.runtime.tasks import Item, map_tasks
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest
from mads_ray.storage import write_json
from mads_ray.stored.examples import read_examples
from mads_ray.stored.records import read_marker

log = logging.getLogger(__name__)


def calibrated(
    run: Run, capturing: CaptureConfig, ledger: CorpusLedger, source: RunFolder | None = None
) -> StatesManifest:
    """Return the manifest of the output's states. Calibrate first where there is none.

    `source`: the run folder whose calibration to copy; None to fit one. Raises MismatchError where
    the output holds a calibration of other settings.
    """
    folder = run.output
    if not folder.manifest.exists():
        if source is not None:
            return copy_calibration(capturing, folder, source)
        return _calibrate(run, capturing, ledger)
    from mads_ray.capture.model import local_revision

    manifest = StatesManifest.load(folder.manifest)
    wanted = {
        "engine": capturing.engine,
        "model": capturing.model,
        **requested_of(capturing),
    }
    if not capturing.store_raw:
        del wanted["store_raw"]  # a column too many disturbs nobody
    if source is not None:
        del wanted["calibration_from"]  # the other run may have moved: its calibration counts
        wanted["calibration"] = StatesManifest.load(source.manifest).calibration
    if capturing.dtype != "auto":
        wanted["dtype"] = capturing.dtype
    # A model on this machine may have changed; one of the hub is pinned by its revision.
    here = local_revision(capturing.model)
    if here is not None:
        wanted["revision"] = here
    if manifest.date:  # older states are whole or refused by the workers, who know the template
        wanted["date"] = DATE
    manifest.require(wanted, folder.states)
    return manifest


def _calibrate(run: Run, capturing: CaptureConfig, ledger: CorpusLedger) -> StatesManifest:
    folder = run.output
    # torch: only where something is captured
    from mads_ray.capture.model import inspect_model, local_revision

    log.info("calibrate: model %s", capturing.model)
    inspect_model(*which(capturing))  # fail before the pool starts
    sample = _sample(capturing.calibration_rows, folder, ledger)
    plan = {
        "capture": capturing.model_dump(mode="json"),
        "local_revision": local_revision(capturing.model),
        "date": DATE,
        "rows": sample,
    }
    _require_same_sample(folder, plan)
    groups = [
        group_task(folder, i, sample[start : start + GROUP_ROWS])
        for i, start in enumerate(range(0, len(sample), GROUP_ROWS))
    ]
    stored = [_pooled_before(group.marker) for group in groups]
    results: list[Item] = [result for result in stored if result is not None]
    todo = [group for group, result in zip(groups, stored, strict=True) if result is None]
    for group in todo:  # a torn marker must not look like a finished group to the workers
        group.marker.unlink(missing_ok=True)
    progress = Progress("calibrate", len(sample), sum(r["rows"] for r in results))
    with closing(on_models(run, capturing, "calibrate", todo, calibrator)) as found:
        for result in found:
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
    call = (folder, capturing.neurons_per_layer, capturing.sketch_dim)
    (fitted,) = map_tasks(_fit, [call])
    hidden = facts[0].pop("hidden_size")
    manifest = StatesManifest(
        hidden_dim=hidden if capturing.store_hidden else 0,
        max_tokens=capturing.max_tokens,
        calibration_tokens=tokens,
        calibration_padded_tokens=padded,
        requested=requested_of(capturing),
        raw=capturing.store_raw,
        **facts[0],
        **fitted,
    )
    manifest.save(folder.manifest)
    return manifest


@dataclass(frozen=True, slots=True)
class _Group:
    """The marker of a group of the sample that was pooled. `model`: the facts of its model."""

    rows: int
    tokens: int
    padded_tokens: int
    model: dict[str, Any]


def _pooled_before(marker: Path) -> Item | None:
    found = read_marker(marker, _Group)
    return None if found is None else asdict(found)


def _require_same_sample(folder: RunFolder, plan: dict[str, Any]) -> None:
    """Remove the groups of an interrupted calibration where it had other settings."""
    plan = json.loads(json.dumps(plan))
    if read_marker(folder.sample / "plan.json", dict) != plan:
        shutil.rmtree(folder.sample, ignore_errors=True)
        shutil.rmtree(folder.open, ignore_errors=True)
        write_json(folder.sample / "plan.json", plan)


def _sample(wanted: int, folder: RunFolder, ledger: CorpusLedger) -> list[tuple[str, int]]:
    """(uid, shard) of the examples with the smallest hashes, in hash order.

    It does not depend on the run's seed: states of one corpus and model are the same for all seeds.
    """
    # Twice the expected share, so that the driver sees a few thousand uids, not the corpus.
    share = min(1.0, (2 * wanted + 64) / ledger.examples)
    limit = 2**64 - 1 if share == 1.0 else int(share * 2**64)
    calls = ((folder.shard_file(s.shard), s, limit) for s in ledger.shards)
    found = sorted(c for part in map_tasks(_hashed_below, calls) for c in part)
    return [(uid, shard) for _, uid, shard in found[:wanted]]


def _hashed_below(path: Path, shard: ShardRecord, limit: int) -> list[tuple[int, str, int]]:
    uids = read_examples(path, ["uid"], shard).column("uid").to_pylist()
    hashes = seeded_hash(uids, seed=0, stream=CALIBRATION_ROWS) if uids else np.empty(0, np.uint64)
    return [
        (int(hashes[i]), uids[i], shard.shard) for i in np.flatnonzero(hashes <= np.uint64(limit))
    ]


def _fit(folder: RunFolder, k: int, sketch_dim: int) -> dict[str, Any]:
    from mads_ray.capture.calibration import fit_calibration
    from mads_ray.capture.calibration_sample import CalibrationSample

    calibration = fit_calibration(CalibrationSample(folder.sample).pooled(), k, sketch_dim)
    calibration.save(folder.calibration)
    return {
        "neurons_per_layer": calibration.neurons_per_layer,
        "sketch_dim": calibration.projection_DS.shape[1],
        "calibration": calibration.digest(),
    }
