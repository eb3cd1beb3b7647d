"""Collapse near-duplicates before the selection, a bucket of clusters at a time.

Rows of one cluster go to one bucket. Their keys (about 270 bytes a row) meet in a task, which pairs
rows that share a key. The rows of a bounded number of pairs meet in another task, which compares
their neurons.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mads_ray.arrays import I32, I64, U64, Mask
from mads_ray.pipeline.runtime.tasks import fetch, remote
from mads_ray.pipeline.select.workers import BESIDE, SelectionWorkers, order_of
from mads_ray.submodular.near_duplicates import (
    band_keys,
    bands_for,
    candidate_pairs,
    collapse,
    near,
)
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.shards import LoadedShard, places_by_shard

log = logging.getLogger(__name__)

BUCKET_ROWS = 65_536
_ROWS_AT_ONCE = 16_384  # whose neurons are in one place


@dataclass(frozen=True, slots=True, eq=False)
class Collapsed:
    """Places (shard, row) of the rows that are left out, and uids of those that stay for them."""

    places_N2: I32
    kept_uids: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Keys (N, bands), ids (shard << 32 | row) and tie hashes of some rows."""

    keys_NB: U64
    ids_N: I64
    ties_N: U64


def collapse_near_duplicates(
    workers: SelectionWorkers, threshold: float, rows: int, per_layer: int
) -> Collapsed:
    """Find near-duplicates among all candidates, and exclude all but the first of each group.

    `threshold`: the share of their neurons; `rows`: number of examples; `per_layer`: active neurons
    in a layer.
    """
    buckets = max(1, -(-rows // BUCKET_ROWS))
    out, leaders = [], []
    for bucket in range(buckets):
        how = (threshold, per_layer, bucket, buckets)
        # References: keys go from the workers to the task, not through the driver.
        keys = [actor.run.remote(0, _keys, *how) for actor in workers.actors]
        pairs, ids, hashes = fetch(remote(_pairs, BESIDE).options(num_returns=3).remote(*keys))
        near_pairs = _verified(workers, pairs, per_layer, threshold)
        met = np.unique(near_pairs)
        at = np.searchsorted(ids, met)
        leader = collapse(met, hashes[at], near_pairs)
        gone = leader != met
        out.append(_places(met[gone]))
        leaders.append(_places(leader[gone]))
    collapsed = Collapsed(np.concatenate(out), _uids(workers, np.concatenate(leaders)))
    workers.ask("exclude", collapsed.places_N2)
    log.info(
        "near-duplicates: %s of %s examples share %.0f%% of their neurons with one that stays",
        *(f"{len(collapsed.places_N2):,}", f"{rows:,}", 100 * threshold),
    )
    return collapsed


def _keys(
    shards: Sequence[LoadedShard],
    objective: Objective,
    threshold: float,
    per_layer: int,
    bucket: int,
    buckets: int,
) -> Keys:
    """Keys of the candidates whose cluster falls in a bucket."""
    bands, parts = bands_for(threshold), []
    for shard in shards:
        leaf_N = shard.paths_NP[:, -1]
        mine = np.flatnonzero(shard.candidates(0) & (leaf_N % buckets == bucket))
        neurons = shard.rows().neurons_NA[mine]
        ids = (np.int64(shard.shard) << 32) + mine
        keys = band_keys(neurons, per_layer, leaf_N[mine], *bands)
        parts.append((keys, ids, shard.ties_N[mine]))
    return Keys(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def _uids(workers: SelectionWorkers, places_K2: I32) -> list[str]:
    words = np.empty((len(places_K2), 2), np.uint64)
    for answer in workers.ask(_words, places_K2):
        for at, halves in answer:
            words[at] = halves
    return [f"{int(high):016x}{int(low):016x}" for high, low in words]


def _words(
    shards: Sequence[LoadedShard], objective: Objective, places_K2: I32
) -> list[tuple[I64, U64]]:
    """(positions in `places_K2`, uid halves) of the rows here."""
    at, here = places_by_shard(places_K2), {s.shard: s for s in shards}
    return [(i, here[s].uids_N2[places_K2[i, 1]]) for s, i in at.items() if s in here]


def _pairs(*parts: Keys) -> tuple[I64, I64, U64]:
    """Candidate pairs of ids, and all ids (ascending) with their hashes."""
    keys = np.concatenate([p.keys_NB for p in parts])
    ids = np.concatenate([p.ids_N for p in parts])
    hashes = np.concatenate([p.ties_N for p in parts])
    bands = keys.shape[1]
    pairs = candidate_pairs(keys.ravel(), np.repeat(ids, bands), np.repeat(hashes, bands))
    order = np.argsort(ids)
    return pairs, ids[order], hashes[order]


def _verified(workers: SelectionWorkers, pairs_P2: I64, per_layer: int, threshold: float) -> I64:
    """The pairs that reach the threshold."""
    pairs_P2 = pairs_P2[np.lexsort(pairs_P2.T[::-1])]  # pairs of one leader together
    found = [pairs_P2[:0]]
    start = 0
    while start < len(pairs_P2):
        stop = min(len(pairs_P2), start + _ROWS_AT_ONCE // 2)
        piece = pairs_P2[start:stop]
        rows, place_of = np.unique(piece, return_inverse=True)
        parts, places = workers.rows_at(_places(rows))
        index = order_of(places, _places(rows))[place_of.reshape(piece.shape)]
        keep = fetch(remote(_near, BESIDE).remote(index, per_layer, threshold, *parts))
        found.append(piece[keep])
        start = stop
    return np.concatenate(found)


def _near(pairs_P2: I64, per_layer: int, threshold: float, *parts: FeatureRows) -> Mask:
    return near(FeatureRows.concat(parts).neurons_NA, pairs_P2, per_layer, threshold)


def _places(ids_N: I64) -> I32:
    return np.stack([ids_N >> 32, ids_N & (2**32 - 1)], axis=1).astype(np.int32)
