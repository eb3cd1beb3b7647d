"""k-center by farthest-first traversal (Gonzalez 1985): cover the corpus with k balls.

The traversal is a 2-approximation: after k picks no row is farther from them than twice the best
radius of k rows. Each prefix is the traversal of that smaller k. Time O(N k S), 8 ns a row and
pick for sketches of 128; memory 2 or 4 N S bytes.

Shards compose: the traversal of a union of traversals with at least k picks each is a
4-approximation (Malkomes, Kusner, Chen, Weinberger and Moseley 2015), whatever the partition. But
unlike the traversal of the whole, it does depend on the partition.

Arithmetic is in integers: distances do not depend on the machine or on the order of sums. N rows in
canonical order, to which ties go; sketches of length S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64, I64, U64

Sketches = npt.NDArray[np.floating]

_QUANTUM = 2.0**14  # sketches are of length 1 and kept in float16
_FAR = 2**63 - 1

_jit = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True, slots=True, eq=False)
class Centres:
    """What a shard sends up: ids (K,) and sketches (K, S) of its picks in order, and `radius`: no
    row below is farther than this from the nearest of them (exact for a shard, then a bound)."""

    ids_K: I64
    sketches_KS: Sketches
    radius: float


def k_center(sketches_NS: Sketches, k: int, first: int = 0) -> tuple[I64, F64]:
    """Row numbers in order (K,) with K = min(k, N), and the radius (K,): after picks 0 to j, the
    distance from the farthest row to the nearest of them.

    The traversal starts at row `first`; then the row farthest from all picks is next. Once only
    copies of picks are left (radius 0), they follow in canonical order.
    """
    n = len(sketches_NS)
    if n and not 0 <= first < n:
        raise ValueError(f"first is row {first} of {n}")
    k = min(k, n)
    squares_K = np.empty(k, np.int64)
    picks = np.empty(k, np.int64)
    _traverse(_integers(sketches_NS), first, picks, squares_K)
    return picks, np.sqrt(squares_K) / _QUANTUM


def shard_centres(ids_N: I64, sketches_NS: Sketches, k: int) -> Centres:
    """The picks of one shard, whose rows are in canonical order; k of the whole for a guarantee."""
    picks, radius_K = k_center(sketches_NS, k)
    radius = float(radius_K[-1]) if len(radius_K) else 0.0
    return Centres(ids_N[picks], sketches_NS[picks], radius)


def reduce(parts: Sequence[Centres], k: int) -> Centres:
    """k picks from the union of parts in canonical order of shards; parts may be unions, too."""
    ids = np.concatenate([p.ids_K for p in parts])
    sketches = np.concatenate([p.sketches_KS for p in parts])
    picked = shard_centres(ids, sketches, k)
    below = max(p.radius for p in parts)
    return Centres(picked.ids_K, picked.sketches_KS, picked.radius + below)


def _integers(sketches_NS: Sketches) -> npt.NDArray[np.signedinteger]:
    """In units of 2^-14: int16 where it fits, else int32; squared distances fit int64."""
    quantised = np.rint(sketches_NS.astype(np.float64) * _QUANTUM)
    largest = float(np.abs(quantised).max(initial=0))
    if not sketches_NS.shape[1] * (2 * largest) ** 2 < 2**62:  # also when it is not a number
        raise ValueError(f"sketches with values up to {largest / _QUANTUM} are too large")
    small = largest < 2**15
    return quantised.astype(np.int16) if small else quantised.astype(np.int32)


@_jit
def _traverse(points_NS: Any, first: int, picks: Any, squares_K: Any) -> None:
    # Giving a distance up halfway, when it is no longer the smallest, costs the loop its vector
    # instructions and ten times its speed.
    nearest_N = np.full(len(points_NS), _FAR, np.int64)
    pick = first
    for j in range(len(picks)):
        picks[j] = pick
        nearest_N[pick] = -1  # never again, also where its copies are all that is left
        centre_S = points_NS[pick]
        farthest = np.int64(-1)
        for i in range(len(points_NS)):
            square = np.int64(0)
            for s in range(points_NS.shape[1]):
                step = np.int64(points_NS[i, s]) - np.int64(centre_S[s])
                square += step * step
            nearest_N[i] = min(nearest_N[i], square)
            if nearest_N[i] > farthest:
                farthest = nearest_N[i]
                pick = i
        squares_K[j] = max(farthest, 0)


def round_robin(
    leaf_N: npt.NDArray[np.integer],
    distance_N: npt.NDArray[np.floating],
    hashes_N: U64,
    k: int,
) -> I64:
    """The first k row numbers (all, if there are fewer) in order: every prefix is a core set.

    In turn t every cluster gives its t-th row by (distance to the centroid, hash). Within a turn
    the largest clusters come first, then lower numbers: leaves are numbered by their coordinates,
    so ascending numbers alone would cut the last turn, or a k below the number of clusters, to one
    side of the space.
    """
    sizes_C = np.bincount(leaf_N)
    place_C = np.empty(len(sizes_C), np.int64)
    place_C[np.argsort(-sizes_C, kind="stable")] = np.arange(len(sizes_C))
    order_N = np.lexsort((hashes_N, distance_N, leaf_N))
    sorted_N = leaf_N[order_N]
    turn_N = np.arange(len(order_N)) - (np.cumsum(sizes_C) - sizes_C)[sorted_N]
    return order_N[np.lexsort((place_C[sorted_N], turn_N))[:k]]


Tokens = npt.NDArray[np.integer]


def length_edges(tokens_K: Tokens, bins: int) -> I64:
    """At most bins - 1 inner edges between about equally many of the rows to be matched."""
    if not len(tokens_K):
        return np.empty(0, np.int64)
    cuts = np.arange(1, bins) * len(tokens_K) // bins
    edges: I64 = np.unique(np.sort(tokens_K)[cuts]).astype(np.int64)
    inner: I64 = edges[edges > tokens_K.min()]  # no first bin without rows
    return inner


def length_counts(tokens_K: Tokens, edges: I64) -> I64:
    """Rows in each bin, (B,)."""
    return np.bincount(_bins(tokens_K, edges), minlength=len(edges) + 1)


def length_matched(tokens_N: Tokens, hashes_N: U64, wanted_counts_B: I64, edges: I64) -> I64:
    """Row numbers (K,), K the sum of the wanted counts, in ascending order of hash (then row).

    Each bin gives its rows with the smallest hashes. What a bin lacks comes from the nearest bins
    with rows to spare: all shortages are first served one bin away, then two, and so on, by the
    shorter rows before the longer ones.
    """
    if len(wanted_counts_B) != len(edges) + 1:
        raise ValueError(f"{len(edges)} edges make {len(edges) + 1} bins, not the wanted ones")
    if wanted_counts_B.sum() > len(tokens_N):
        raise ValueError(f"{wanted_counts_B.sum()} rows wanted of {len(tokens_N)}")
    bin_N = _bins(tokens_N, edges)
    available_B = np.bincount(bin_N, minlength=len(wanted_counts_B))
    take_B = _serve(wanted_counts_B, available_B)
    order_N = np.lexsort((hashes_N, bin_N))
    sorted_N = bin_N[order_N]
    place_N = np.arange(len(order_N)) - (np.cumsum(available_B) - available_B)[sorted_N]
    picks = np.sort(order_N[place_N < take_B[sorted_N]])
    return picks[np.argsort(hashes_N[picks], kind="stable")]


def _bins(tokens_N: Tokens, edges: I64) -> I64:
    return np.searchsorted(edges, tokens_N, side="right").astype(np.int64)


def _serve(wanted_B: I64, available_B: I64) -> I64:
    """How many rows each bin gives."""
    take_B = np.minimum(wanted_B, available_B)
    short_B, spare_B = wanted_B - take_B, available_B - take_B
    for away in range(1, len(take_B)):
        for b in np.flatnonzero(short_B):
            for other in (b - away, b + away):
                if 0 <= other < len(take_B):
                    moved = min(short_B[b], spare_B[other])
                    take_B[other] += moved
                    spare_B[other] -= moved
                    short_B[b] -= moved
    return take_B
