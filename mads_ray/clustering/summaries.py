"""Weighted summaries of sketches, one of each shard, which are merged into one.

In a small corpus a summary holds the sketches themselves, so that the cluster tree does not depend
on the sharding. In a large one it holds k-means centroids with their weights. P points of length S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F32, I64

MERGED_POINTS = 65_536
_LOCAL_CENTROIDS = (32, 256)  # of a shard
_RESTARTS = 2  # of the k-means that makes the leaves


@dataclass(frozen=True, slots=True, eq=False)
class SketchSummary:
    """Points (P, S) float32, and what the examples weigh that each stands for (P,)."""

    points_PS: F32
    weights_P: I64


def local_centroids(shards: int) -> int:
    """How many centroids summarise one shard: fewer where there are many shards to merge."""
    least, most = _LOCAL_CENTROIDS
    return min(most, max(least, 4 * MERGED_POINTS // shards))


def summarise(
    sketches_NS: npt.NDArray[np.floating],
    weights_N: I64 | None,
    whole: bool,
    centroids: int,
    iterations: int,
    seed: int,
) -> SketchSummary:
    """Summarise one shard: with every sketch when `whole`, else with at most `centroids`.

    `weights_N`: of the rows; without them each has 1.
    """
    points = sketches_NS.astype(np.float32)
    raw = SketchSummary(points, np.ones(len(points), np.int64) if weights_N is None else weights_N)
    return raw if whole else _reduce(raw, centroids, iterations, seed)


def merge_summaries(
    parts: Sequence[SketchSummary], whole: bool, fan_in: int, iterations: int, seed: int
) -> SketchSummary:
    """Join summaries in canonical order. Weighted k-means reduces a result that is too large."""
    union = SketchSummary(
        np.concatenate([p.points_PS for p in parts]), np.concatenate([p.weights_P for p in parts])
    )
    if whole or len(union.points_PS) <= MERGED_POINTS:
        return union
    return _reduce(union, MERGED_POINTS // fan_in, iterations, seed)


def weighted_kmeans(
    summary: SketchSummary, k: int, iterations: int, seed: int, restarts: int = _RESTARTS
) -> F32:
    """At most k centroids (K, S), by faiss on one thread: several could add in another order.

    faiss uses a GPU where this process has one and faiss was built for it. Then equal inputs give
    equal trees on equal hardware only.
    """
    faiss.omp_set_num_threads(1)
    k = min(k, len(summary.points_PS))
    if k == len(summary.points_PS):
        return summary.points_PS
    kmeans = faiss.Kmeans(
        summary.points_PS.shape[1],
        k,
        niter=iterations,
        seed=seed,
        # Random starts merge small clusters, and with them the rare tasks: on the labelled mix,
        # k-means++ reached 76 to 78 tasks at 15% on average where random starts reached 71 to 74.
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        nredo=restarts,
        gpu=bool(getattr(faiss, "get_num_gpus", int)()),
        min_points_per_centroid=1,
        max_points_per_centroid=2**31 - 1,
    )
    kmeans.train(summary.points_PS, weights=summary.weights_P.astype(np.float32))
    return np.asarray(kmeans.centroids, np.float32)


def _reduce(summary: SketchSummary, k: int, iterations: int, seed: int) -> SketchSummary:
    if len(summary.points_PS) <= k:
        return summary
    centroids = weighted_kmeans(summary, k, iterations, seed, restarts=1)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    nearest = index.search(summary.points_PS, 1)[1][:, 0]
    weights = np.bincount(nearest, summary.weights_P, len(centroids)).astype(np.int64)
    return SketchSummary(centroids[weights > 0], weights[weights > 0])


def merge_levels(leaves: int, fan_in: int) -> list[list[range]]:
    """Which summaries to merge, level by level; the last level is one group.

    Empty for a single summary.
    """
    levels = []
    width = leaves
    while width > 1:
        groups = [range(i, min(i + fan_in, width)) for i in range(0, width, fan_in)]
        levels.append(groups)
        width = len(groups)
    return levels
