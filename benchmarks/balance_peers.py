"""Other ways to a balanced core set, for benchmarks/balance.py, on the sketch that ours uses.

- k-means with as many clusters as rows wanted; the row nearest to its centroid from each in turn.
- DENSITY sampling (Sachdeva et al. 2024, arXiv 2402.09668): draw without replacement, with a chance
  in proportion to 1 / density.
- Hierarchical k-means with resampling (Vo et al. 2024, arXiv 2405.15613): k-means on the rows, then
  on centroids, level by level. Each level is refined by k-means on rows drawn evenly from its
  clusters. The budget is then spread evenly over clusters from the top down.

N rows, S sketch length, C clusters, K picks.
"""

from __future__ import annotations

import numpy as np
from captured_pools import F32, I64, Pool

from mads_ray.baselines import length_counts, length_edges, length_matched, round_robin
from mads_ray.clustering.summaries import SketchSummary, weighted_kmeans
from mads_ray.clustering.tree import build_tree
from mads_ray.hashing import BASELINE_ORDER, hash_words

_LENGTH_BINS = 20
_ITERATIONS = 20
RESAMPLINGS = 10  # as in the paper
# Clusters of each level, fine to coarse, by the rows of the pool (N) and those wanted (K).
SHAPES = {
    "K": lambda n, k: (k,),
    "K, K/3": lambda n, k: (k, max(1, k // 3)),
    "N/4, N/16, N/64": lambda n, k: (n // 4, n // 16, max(1, n // 64)),
}


def kmeans(pool: Pool, size: int, seed: int, weights_N: I64, sketch: str) -> I64:
    """Round robin over k-means clusters of weighted rows, as many as rows wanted."""
    sketches_NS = pool.sketches[sketch]
    tree = build_tree(SketchSummary(sketches_NS, weights_N), (size,), _ITERATIONS, seed)
    leaf_N, distance_N = tree.assign(sketches_NS)
    return round_robin(leaf_N, distance_N, _order(pool, seed), size)


def density(weights_N: I64 | np.ndarray, size: int, seed: int) -> I64:
    """A draw without replacement in proportion to weights (Efraimidis and Spirakis 2006)."""
    rng = np.random.default_rng(seed)
    return np.argsort(-(np.log(weights_N) + rng.gumbel(size=len(weights_N))))[:size]


def random(pool: Pool, size: int, seed: int) -> I64:
    """Random rows."""
    return np.random.default_rng(seed).permutation(len(pool))[:size]


def length_matched_random(pool: Pool, ours_K: I64, seed: int) -> I64:
    """Random rows as long as those of ours."""
    tokens_K = pool.tokens_N[ours_K]
    edges = length_edges(tokens_K, _LENGTH_BINS)
    counts_B = length_counts(tokens_K, edges)
    return length_matched(pool.tokens_N, _order(pool, seed), counts_B, edges)


def _order(pool: Pool, seed: int) -> np.ndarray:
    return hash_words(*pool.uids_N2.T, seed, BASELINE_ORDER)


# --- hierarchical k-means ---


def hierarchical(pool: Pool, size: int, seed: int, shape: str, resamplings: int) -> I64:
    """Rows by a hierarchy of k-means of one of `SHAPES`."""
    clusters = SHAPES[shape](len(pool), size)
    levels = _hierarchy(pool.sketches["unit"], clusters, seed, resamplings)
    return _spread(levels, size, seed)


def _hierarchy(points_NS: F32, clusters: tuple[int, ...], seed: int, resamplings: int) -> list[I64]:
    """Levels, fine to coarse: the cluster of each row, then that of each of its clusters, ..."""
    found = []
    for level, k in enumerate(clusters):
        centroids_CS, of_N = _resampled_kmeans(points_NS, k, seed + 1000 * level, resamplings)
        found.append(of_N)
        points_NS = centroids_CS
    return found


def _resampled_kmeans(points_NS: F32, k: int, seed: int, resamplings: int) -> tuple[F32, I64]:
    """Centroids (C, S) and the cluster of each point (N,), C at most k: no cluster is empty."""
    centroids_CS = _kmeans(points_NS, k, seed)
    each = max(1, round(len(points_NS) / (2 * k)))  # half of a mean cluster
    for step in range(1, resamplings + 1):
        of_N, distance_N = _nearest(points_NS, centroids_CS)
        order_N = np.lexsort((distance_N, of_N))
        starts_C = np.searchsorted(of_N[order_N], np.arange(len(centroids_CS)))
        place_N = np.arange(len(order_N)) - starts_C[of_N[order_N]]
        centroids_CS = _kmeans(points_NS[order_N[place_N < each]], k, seed + step)
    of_N, _ = _nearest(points_NS, centroids_CS)
    used, of_N = np.unique(of_N, return_inverse=True)
    return centroids_CS[used], of_N.astype(np.int64)


def _kmeans(points_NS: F32, k: int, seed: int) -> F32:
    points_NS = np.ascontiguousarray(points_NS)
    summary = SketchSummary(points_NS, np.ones(len(points_NS), np.int64))
    return weighted_kmeans(summary, k, _ITERATIONS, seed, restarts=1)


def _nearest(points_NS: F32, centroids_CS: F32) -> tuple[I64, np.ndarray]:
    """The nearest centroid of each point, and the squared distance up to the point's own length."""
    d_NC = (centroids_CS**2).sum(1) - 2 * points_NS @ centroids_CS.T
    of_N = d_NC.argmin(1)
    distance_N = d_NC[np.arange(len(points_NS)), of_N] + (points_NS**2).sum(1)
    return of_N.astype(np.int64), distance_N


def _spread(levels: list[I64], size: int, seed: int) -> I64:
    """Rows (K,) by a budget that is spread evenly from the coarsest level down.

    Among the parts of a cluster each gets the same, or all its rows where it has fewer; within a
    finest cluster rows are drawn at random.
    """
    rng = np.random.default_rng(seed)
    members: list[I64] = [np.array([i]) for i in range(len(levels[0]))]
    rows_of = [members]
    for of_N in levels:
        members = [
            np.concatenate([rows_of[-1][i] for i in np.flatnonzero(of_N == c)])
            for c in range(int(of_N.max()) + 1)
        ]
        rows_of.append(members)
    give_C = _evenly(np.array([len(rows) for rows in rows_of[-1]]), size, rng)
    for depth in range(len(levels) - 1, 0, -1):
        below = np.zeros(len(rows_of[depth]), np.int64)
        for c, give in enumerate(give_C):
            parts = np.flatnonzero(levels[depth] == c)
            below[parts] = _evenly(np.array([len(rows_of[depth][p]) for p in parts]), give, rng)
        give_C = below
    picks = [rng.permutation(r)[:n] for r, n in zip(rows_of[1], give_C, strict=True)]
    return np.concatenate(picks)


def _evenly(sizes_C: I64, size: int, rng: np.random.Generator) -> I64:
    """How many of `size` rows each of some clusters gives: min(its rows, a common level).

    What is left below the next level goes to random ones of those that have more.
    """
    low, high = 0, int(sizes_C.max(initial=0))
    while low < high:  # the highest level that is within the budget
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if np.minimum(sizes_C, middle).sum() <= size else (low, middle - 1)
        )
    give_C = np.minimum(sizes_C, low)
    more = rng.permutation(np.flatnonzero(sizes_C > low))[: size - int(give_C.sum())]
    give_C[more] += 1
    return give_C
