"""Stage 4: how dense the pool is around each row, which gives rows their weights.

Two passes over the sketches. The first finds the landmarks. The second counts for each row those
that are like it, and writes the counts where the rows are, a file for each shard. The driver gets
the landmarks (some 2,000 rows) and sums over bins of lengths, whatever the size of the corpus.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from mads_ray import __version__
from mads_ray.arrays import I64, U64
from mads_ray.clustering.density import (
    BinSums,
    Density,
    PoolDensity,
    keep_alike,
    weights_by_count,
)
from mads_ray.clustering.landmarks import Landmarks, directions_of, threshold
from mads_ray.clustering.survey import Survey
from mads_ray.config import SelectionConfig
from mads_ray.errors import DamagedFileError
from mads_ray.finished_run import FinishedRun
from mads_ray.hashing import isin_words
from mads_ray.ledger import total_checksum
from mads_ray.pipeline.base_core_set import base_runs, picks_of
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.runtime.tasks import fetch, map_tasks, remote
from mads_ray.states import CapturedShard, CapturedStates, read_matrix
from mads_ray.storage import write_json
from mads_ray.stored.damaged import damaged
from mads_ray.stored.records import read_marker
from mads_ray.stored.tables import words_of

log = logging.getLogger(__name__)

_FEW_KINDS, _ENOUGH_ROWS = 10, 20
_LARGE_SHARE = 0.25


def density(run: Run, selection: SelectionConfig, states: CapturedStates) -> Density:
    """Count rows like each other, or load what the output has of these states and settings.

    Rows of a base core set count with those of the pool: what it holds is not sought again. Raises
    MismatchError where its states have another calibration.
    """
    output, extended = run.output, selection.base_core_set
    bases = [] if extended is None else list(base_runs(extended))
    for base in bases:
        same = {"calibration": states.manifest.calibration}
        base.states.manifest.require(same, base.states.folder.states)
    about = {
        "version": __version__,
        "states": total_checksum(states.records),
        "shards": [r.captured for r in states.records],
        "calibration": states.manifest.calibration,
        "balance": selection.balance,
        "bases": [[str(b.folder.root), b.summary["finished"]] for b in bases],
    }
    stored = _stored(run, states) if read_marker(output.density_of, dict) == about else None
    if stored is not None:
        log.info("density: rows like each other were counted before")
        pool, landmarks = stored
    else:
        output.density_of.unlink(missing_ok=True)
        pool, landmarks = _counted(run, selection.balance, states, bases)
        pool.save()
        landmarks.save(output.landmarks)
        write_json(output.density_of, about)
    found = Density(pool, fetch(remote(_survey).remote(landmarks)))
    _tell(found, selection.balance)
    return found


def _stored(run: Run, states: CapturedStates) -> tuple[PoolDensity, Landmarks] | None:
    """What the output has of an earlier run; None where a file of it is gone or torn."""
    try:
        pool, landmarks = PoolDensity.load(run.output.density), Landmarks.load(run.output.landmarks)
        for _ in map_tasks(_require_counts, ((pool, s) for s in states.shards)):
            pass
    except DamagedFileError as e:
        log.warning("density: %s", e)
        return None
    return pool, landmarks


def _require_counts(pool: PoolDensity, shard: CapturedShard) -> None:
    if len(pool.alike(shard.shard)) != shard.rows:
        raise damaged(pool.folder, f"has counts of other rows for shard {shard.shard}", "again")


def _counted(
    run: Run, balance: float, states: CapturedStates, bases: list[FinishedRun]
) -> tuple[PoolDensity, Landmarks]:
    folder = run.output.density
    rows = states.examples + sum(b.summary["counts"]["selected"] for b in bases)
    most = threshold(rows)
    found = []
    for base in bases:
        shards = base.states.shards
        of_base = ((s, base.folder.selection_file(s.shard), most) for s in shards)
        of_shards = list(map_tasks(_base_landmarks, of_base))
        uids = [u for _, u in of_shards]
        base.require_picks(np.concatenate([np.empty((0, 2), np.uint64), *uids]))
        found += of_shards
    parts = [part for part, _ in found]
    taken_N2 = np.concatenate([np.empty((0, 2), np.uint64), *(uids for _, uids in found)])
    taken = ray.put(taken_N2)
    for part, in_base in map_tasks(_landmarks, ((s, most, taken) for s in states.shards)):
        parts += [] if part is None else [part]
        rows -= in_base  # else rows of the pool that a base holds would count twice
    landmarks = Landmarks.merge(parts)
    weights_C = weights_by_count(len(landmarks), balance)
    gpus = 1 if ray.cluster_resources().get("GPU") else 0  # faiss uses what it finds
    among = (ray.put(landmarks), ray.put(weights_C), folder)
    sums = BinSums.none()
    for of_shard in map_tasks(_count, ((s, *among) for s in states.shards), gpus=gpus):
        sums = sums + of_shard
    known = (landmarks.uids_M2, landmarks.directions_MS, weights_C, sums.rows_B, sums.weight_B)
    return PoolDensity(folder, rows, len(landmarks), weights_C, sums, _digest(*known)), landmarks


def _landmarks(
    shard: CapturedShard, most: np.uint64, taken_M2: U64
) -> tuple[Landmarks | None, int]:
    """Landmarks of a shard, if it has any, and how many of its rows are in a base core set."""
    uids_N2 = _uids(shard)
    rows = np.flatnonzero(uids_N2[:, 0] <= most)
    in_base = int(isin_words(uids_N2, taken_M2).sum()) if len(taken_M2) else 0
    return _sampled(shard, shard.shard, uids_N2, rows) if len(rows) else None, in_base


def _base_landmarks(
    shard: CapturedShard, selection: Path, most: np.uint64
) -> tuple[Landmarks, U64]:
    """Landmarks among the selected rows of a base's shard, and the uids of all of these."""
    uids_N2, picked = _uids(shard), picks_of(selection, shard)
    rows = np.flatnonzero(picked & (uids_N2[:, 0] <= most))
    return _sampled(shard, -1, uids_N2, rows), uids_N2[picked]


def _uids(shard: CapturedShard) -> U64:
    """Halves of a shard's uids, uint64 (N, 2)."""
    return words_of(shard.read(["uid"]))


def _sampled(shard: CapturedShard, number: int, uids_N2: U64, rows: I64) -> Landmarks:
    """Some rows of a shard, as those of the shard of a number."""
    sketches_NS = read_matrix(shard.read(["sketch"]), "sketch")[rows]
    places_M2 = np.stack([np.full(len(rows), number), rows], axis=1).astype(np.int32)
    return Landmarks(uids_N2[rows], directions_of(sketches_NS), places_M2)


def _count(shard: CapturedShard, landmarks: Landmarks, weights_C: I64, folder: Path) -> BinSums:
    """Write how many landmarks are like each row of a shard, and return sums of the weights."""
    states = shard.read(["n_tokens", "sketch"])
    directions_NS = directions_of(read_matrix(states, "sketch"))
    alike_N = landmarks.count_alike(shard.shard, directions_NS)
    keep_alike(folder, shard.shard, alike_N)
    return BinSums.of(alike_N, states.column("n_tokens").to_numpy(), weights_C)


def _survey(landmarks: Landmarks) -> Survey:
    return Survey.of(landmarks)


def _digest(*arrays: npt.NDArray[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def _tell(found: Density, balance: float) -> None:
    """Say on the terminal where the pool repeats itself."""
    pool, kinds = found.pool, f"{found.survey.kinds:,.0f}"
    sampled = "" if pool.landmarks >= pool.rows else f", as far as {pool.landmarks:,} of them show"
    log.info("density: about %s kinds of rows in %s%s", kinds, f"{pool.rows:,}", sampled)
    largest = max((p.share for p in found.survey.places), default=0.0)
    if pool.rows < _ENOUGH_ROWS:
        return
    if found.survey.kinds < _FEW_KINDS:
        log.warning("this corpus has few kinds of rows, about %s: the report shows which", kinds)
    elif largest >= _LARGE_SHARE:
        log.warning(
            "%.0f%% of this corpus are rows like one another: the report shows which; "
            "selection.balance (%g here) says how far they count less",
            *(100 * largest, balance),
        )
