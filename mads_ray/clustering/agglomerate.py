"""Ward's agglomeration of weighted points (Ward 1963), by nearest-neighbour chains.

scipy's linkage gives every point the same weight. Here a point is a leaf, and it stands for many
examples, or for two near-duplicates that lie far from all others. Without weights such a pair would
stay a cluster up to the coarsest level, and the objective would value it like the largest cluster.
Joining i and j costs w_i w_j / (w_i + w_j) |c_i - c_j|^2, so light leaves join first. N points of
length S.
"""

from __future__ import annotations

import numpy as np

from mads_ray.arrays import F64, I64


def weighted_ward(points_NS: F64, weights_N: I64) -> list[tuple[float, int, int]]:
    """All merges (cost, i, j) in ascending order of cost; i < j are the clusters' first points.

    Ward's criterion is reducible: chains of nearest neighbours lead to the same merges as taking
    the cheapest pair each time (Murtagh 1983), in O(N^2) time and memory.
    """
    centres, weights = points_NS.astype(np.float64), weights_N.astype(np.float64)
    norms = (centres**2).sum(1)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * centres @ centres.T, 0)
    cost = squares * (weights[:, None] * weights[None, :] / (weights[:, None] + weights[None, :]))
    np.fill_diagonal(cost, np.inf)
    merges: list[tuple[float, int, int]] = []
    alive = np.ones(len(centres), bool)
    chain: list[int] = []
    while len(merges) < len(centres) - 1:
        if not chain:
            chain.append(int(np.flatnonzero(alive)[0]))
        last = chain[-1]
        nearest = int(cost[last].argmin())
        if len(chain) > 1 and cost[last, chain[-2]] <= cost[last, nearest]:
            nearest = chain[-2]  # with equal costs go back, else the chain may run in a circle
        if len(chain) > 1 and nearest == chain[-2]:
            chain = chain[:-2]
            i, j = min(last, nearest), max(last, nearest)
            merges.append((float(cost[i, j]), i, j))
            total = weights[i] + weights[j]
            joined = (weights + weights[i]) * cost[i] + (weights + weights[j]) * cost[j]
            joined = (joined - weights * cost[i, j]) / (weights + total)  # Lance and Williams
            weights[i] = total
            alive[j] = False
            joined[~alive] = np.inf
            joined[i] = np.inf
            cost[i, :], cost[:, i] = joined, joined
            cost[j, :], cost[:, j] = np.inf, np.inf
        else:
            chain.append(nearest)
    return sorted(merges)


def cut(merges: list[tuple[float, int, int]], points: int, clusters: int) -> I64:
    """The cluster of each point when `clusters` are left, numbered in the order of the points."""
    parent = np.arange(points)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for _, i, j in merges[: points - clusters]:
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    return np.unique([root(i) for i in range(points)], return_inverse=True)[1].astype(np.int64)
