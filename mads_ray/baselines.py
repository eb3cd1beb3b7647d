"""Selection methods beside our own: what a user would select by instead.

To add a method, write its order and a line in `BASELINES` at the end of this file. Everything else
follows from that line: what `--method` and `--compare` take and tell, what is fetched for the
order, the figures beside ours in run.json and the report, the arms of `jobs/finetune_arms.py`.

`config` reads the table, so this file must import fast: compilers load in functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64, I32, I64, U64

Sketches = npt.NDArray[np.floating]
Tokens = npt.NDArray[np.integer]
Need = Literal["cluster", "sketch", "our_lengths"]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Columns of N examples that may be selected. What a method does not need is None.

    `hashes_N` uint64, a random order; `tokens_N` int32. "cluster" brings `leaf_N` int32, the leaf
    of the cluster tree, and `distance_N` float64, the distance to its centroid. "sketch" brings
    `sketches_NS` float16, rows in canonical order: all of them where there are few, else those of
    one shard. "our_lengths" brings `our_tokens_K` int32, tokens of the examples that mads selects.
    """

    hashes_N: U64
    tokens_N: I32
    leaf_N: I32 | None = None
    distance_N: F64 | None = None
    sketches_NS: Sketches | None = None
    our_tokens_K: I32 | None = None

    def take(self, index: I64) -> Candidates:
        """The rows at `index`, in its order."""
        columns = ("hashes_N", "tokens_N", "leaf_N", "distance_N", "sketches_NS")
        given = {c: v[index] for c in columns if (v := getattr(self, c)) is not None}
        return replace(self, **given)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A method. `order(candidates, size)` returns row numbers, best first, at least `size` of them
    where there are so many; the core set is as much of that order as the budget holds. `text` says
    what it selects."""

    order: Callable[[Candidates, int], I64]
    text: str
    needs: frozenset[Need] = frozenset()


# --- k-center ---

_QUANTUM = 2.0**14  # sketches are no longer than 1, and stored in float16
_FAR = 2**63 - 1


def k_center(sketches_NS: Sketches, k: int, first: int = 0) -> tuple[I64, F64]:
    """Cover the rows with k balls, by farthest-first traversal (Gonzalez 1985).

    Returns row numbers in order (K,) with K = min(k, N), and the radius (K,): after picks 0 to j,
    the distance from the farthest row to the nearest of them. The traversal starts at row `first`;
    then the row farthest from all picks is next. Once only copies of picks are left (radius 0),
    they follow in canonical order. Ties go to the row that comes first.

    The traversal is a 2-approximation: no row is farther from the picks than twice the best radius
    of k rows. Each prefix is the traversal of that smaller k. Time O(N k S), about 20 ns a row and
    pick for sketches of 256; memory 2 or 4 N S bytes. A sketch's length is the root of that of the
    projected state, at most 1 (see capture/reducer.py): what is typical of all lies near 0.

    Arithmetic is in integers: distances depend neither on the machine nor on the order of sums.
    """
    n = len(sketches_NS)
    if n and not 0 <= first < n:
        raise ValueError(f"first is row {first} of {n}")
    k = min(k, n)
    squares_K = np.empty(k, np.int64)
    picks = np.empty(k, np.int64)
    _compiled_traversal()(_integers(sketches_NS), first, picks, squares_K)
    return picks, np.sqrt(squares_K) / _QUANTUM


def _integers(sketches_NS: Sketches) -> npt.NDArray[np.signedinteger]:
    """In units of 2^-14: int16 where it fits, else int32; squared distances fit int64."""
    quantised = np.rint(sketches_NS.astype(np.float64) * _QUANTUM)
    largest = float(np.abs(quantised).max(initial=0))
    if not sketches_NS.shape[1] * (2 * largest) ** 2 < 2**62:  # also when it is not a number
        raise ValueError(f"sketches with values up to {largest / _QUANTUM} are too large")
    small = largest < 2**15
    return quantised.astype(np.int16) if small else quantised.astype(np.int32)


@cache
def _compiled_traversal() -> Any:
    import numba

    return numba.njit(cache=True, nogil=True)(_traverse)


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


# --- k-means ---


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


# --- lengths ---


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


# --- the table ---

_LENGTH_BINS = 20


def _random(rows: Candidates, size: int) -> I64:
    return np.argsort(rows.hashes_N, kind="stable")


def _as_long_as_ours(rows: Candidates, size: int) -> I64:
    assert rows.our_tokens_K is not None
    edges = length_edges(rows.our_tokens_K, _LENGTH_BINS)
    wanted_B = length_counts(rows.our_tokens_K, edges)
    return length_matched(rows.tokens_N, rows.hashes_N, wanted_B, edges)


def _typical(rows: Candidates, size: int) -> I64:
    assert rows.leaf_N is not None
    assert rows.distance_N is not None
    return round_robin(rows.leaf_N, rows.distance_N, rows.hashes_N, size)


def _spread(rows: Candidates, size: int) -> I64:
    assert rows.sketches_NS is not None
    return k_center(rows.sketches_NS, size)[0]


BASELINES = {
    "random": Baseline(_random, "random examples"),
    "length-matched-random": Baseline(
        _as_long_as_ours, "random examples as long as those of mads", frozenset({"our_lengths"})
    ),
    "kmeans": Baseline(
        _typical, "the most typical examples of every cluster in turn", frozenset({"cluster"})
    ),
    "k-center": Baseline(
        _spread, "examples that leave none far from all of them", frozenset({"sketch"})
    ),
}
