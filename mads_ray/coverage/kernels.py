"""Compiled inner loops over uint16-within-layer states (numba, cached on disk).

N rows, A active neurons a row, P tree levels, D features, T partitions, G groups. A feature of
slot a is base_A[a] + neurons_NA[i, a]; one of level p is n_neurons + paths_NP[i, p].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from mads_ray.coverage.prefetch import prefetch_row

_jit = numba.njit(cache=True, nogil=True)

LINEAR_BITS = 16
LINEAR = 1 << LINEAR_BITS  # counts below it have a segment of the curve each
STEPS = 256  # segments an octave above it
OCTAVES = 15  # counts are int32


class Space(NamedTuple):
    """The objective as arrays: see `objective.Objective`."""

    base_A: Any
    n_neurons: int
    weight_D: Any
    marginal_M: Any


class Block(NamedTuple):
    """Rows that compete. `rank_N` breaks ties, `cost_N` divides gains, `open_N` may be picked."""

    neurons_NA: Any
    paths_NP: Any
    bonus_N: Any
    tokens_N: Any
    cost_N: Any
    rank_N: Any
    groups_NT: Any
    open_N: Any


class Limits(NamedTuple):
    """A budget, and how many rows of each group are in (`used_G`), at least and at most allowed.

    `need_T`: rows that each partition still lacks to reach its `low_G`. The loops update `used_G`
    and `need_T`.
    """

    max_rows: int
    max_tokens: int
    used_G: Any
    low_G: Any
    high_G: Any
    need_T: Any


@_jit
def segment(count: Any) -> Any:
    """The segment of the curve that a count falls in."""
    count = np.int64(count)
    if count < LINEAR:
        return count
    octave = 0
    while (count >> octave) >= 2 * LINEAR:
        octave += 1
    return LINEAR + octave * STEPS + ((count >> octave) - LINEAR) // (LINEAR // STEPS)


@_jit
def row_gain(
    i: Any, neurons_NA: Any, paths_NP: Any, base_A: Any, n_neurons: int, prices_D: Any
) -> Any:
    """Sum of the prices of row i's features."""
    gain = np.int64(0)
    for a in range(neurons_NA.shape[1]):
        gain += prices_D[base_A[a] + np.int64(neurons_NA[i, a])]
    for p in range(paths_NP.shape[1]):
        gain += prices_D[n_neurons + paths_NP[i, p]]
    return gain


@_jit
def gains(neurons_NA: Any, paths_NP: Any, base_A: Any, n_neurons: int, prices_D: Any) -> Any:
    """Gain of every row against a price vector; int64 (N,)."""
    out = np.empty(neurons_NA.shape[0], np.int64)
    for i in range(neurons_NA.shape[0]):
        out[i] = row_gain(i, neurons_NA, paths_NP, base_A, n_neurons, prices_D)
    return out


@_jit
def count(
    neurons_NA: Any, paths_NP: Any, base_A: Any, n_neurons: int, index: Any, counts_D: Any
) -> None:
    """Add the features of the rows at `index` to the counts."""
    for i in index:
        for a in range(neurons_NA.shape[1]):
            counts_D[base_A[a] + np.int64(neurons_NA[i, a])] += 1
        for p in range(paths_NP.shape[1]):
            counts_D[n_neurons + paths_NP[i, p]] += 1


@_jit
def _raise_count(j: Any, counts_D: Any, prices_D: Any, weight_D: Any, marginal_M: Any) -> None:
    counts_D[j] += 1
    prices_D[j] = marginal_M[segment(counts_D[j])] * weight_D[j]


@_jit
def _add(i: Any, block: Block, space: Space, counts_D: Any, prices_D: Any) -> None:
    for a in range(block.neurons_NA.shape[1]):
        j = space.base_A[a] + np.int64(block.neurons_NA[i, a])
        _raise_count(j, counts_D, prices_D, space.weight_D, space.marginal_M)
    for p in range(block.paths_NP.shape[1]):
        j = space.n_neurons + np.int64(block.paths_NP[i, p])
        _raise_count(j, counts_D, prices_D, space.weight_D, space.marginal_M)


@_jit
def _before(a: Any, b: Any, bound_N: Any, cost_N: Any, rank_N: Any) -> bool:
    """Whether row a comes before row b: larger gain for its cost, then lower tie rank."""
    left, right = bound_N[a] * cost_N[b], bound_N[b] * cost_N[a]
    if left != right:
        return bool(left > right)
    return bool(rank_N[a] < rank_N[b])


@_jit
def _sift_down(heap: Any, size: int, at: int, bound_N: Any, cost_N: Any, rank_N: Any) -> None:
    row = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(heap[child + 1], heap[child], bound_N, cost_N, rank_N):
            child += 1
        if not _before(heap[child], row, bound_N, cost_N, rank_N):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = row


@_jit
def _fits(i: int, block: Block, limits: Limits, picked: int) -> Any:
    """Whether row i keeps every partition feasible; once it does not, it never will again."""
    for t in range(block.groups_NT.shape[1]):
        g = block.groups_NT[i, t]
        if limits.used_G[g] >= limits.high_G[g]:
            return False
        spare = limits.max_rows - picked - limits.need_T[t]
        if limits.used_G[g] >= limits.low_G[g] and spare <= 0:
            return False
    return True


@_jit
def take_group(i: int, block: Block, limits: Limits) -> None:
    """Note that row i is in."""
    for t in range(block.groups_NT.shape[1]):
        g = block.groups_NT[i, t]
        if limits.used_G[g] < limits.low_G[g]:
            limits.need_T[t] -= 1
        limits.used_G[g] += 1


@_jit
def first_fitting(block: Block, limits: Limits) -> Any:
    """Rows in the order of `rank_N` (here a permutation) that fit the limits, int64."""
    picks = np.empty(block.rank_N.shape[0], np.int64)
    m = 0
    spent = 0
    for i in np.argsort(block.rank_N):
        if m >= limits.max_rows:
            break
        if spent + block.tokens_N[i] <= limits.max_tokens and _fits(i, block, limits, m):
            take_group(i, block, limits)
            spent += block.tokens_N[i]
            picks[m] = i
            m += 1
    return picks[:m]


@_jit
def _near_best(heap: Any, size: int, slack: int, bound_N: Any, cost_N: Any) -> Any:
    """Whether the top's gain, raised by 2^-slack, reaches every other row's bound."""
    if slack >= 63:
        return False
    i = heap[0]
    gain = bound_N[i] + (bound_N[i] >> slack)
    for at in range(1, min(3, size)):
        j = heap[at]
        if gain * cost_N[j] < bound_N[j] * cost_N[i]:
            return False
    return True


@_jit
def lazy_greedy(
    block: Block, space: Space, limits: Limits, slack: int, counts_D: Any, prices_D: Any
) -> Any:
    """Minoux's lazy greedy (1978): stale gains are upper bounds, re-evaluated only at the top.

    Returns (picks int64, gains int64) in greedy order; updates counts, prices and limits. A row
    that no longer fits the token budget or its groups is passed over.
    """
    n = block.neurons_NA.shape[0]
    bound_N = np.empty(n, np.int64)
    heap = np.empty(n, np.int64)
    size = 0
    for i in range(n):
        if block.open_N[i]:
            bound_N[i] = block.bonus_N[i] + row_gain(
                i, block.neurons_NA, block.paths_NP, space.base_A, space.n_neurons, prices_D
            )
            heap[size] = i
            size += 1
    stamp_N = np.zeros(n, np.int64)
    for at in range(size // 2 - 1, -1, -1):
        _sift_down(heap, size, at, bound_N, block.cost_N, block.rank_N)
    limit = min(limits.max_rows, size)
    picks = np.empty(limit, np.int64)
    picked_gains = np.empty(limit, np.int64)
    m = 0
    spent = 0
    while m < limit and size > 0:
        i = heap[0]
        fits = spent + block.tokens_N[i] <= limits.max_tokens and _fits(i, block, limits, m)
        stale = stamp_N[i] != m
        if fits and stale:
            for at in range(1, min(3, size)):
                if stamp_N[heap[at]] != m:
                    prefetch_row(heap[at], block.neurons_NA)
            bound_N[i] = block.bonus_N[i] + row_gain(
                i, block.neurons_NA, block.paths_NP, space.base_A, space.n_neurons, prices_D
            )
            stamp_N[i] = m
            stale = not _near_best(heap, size, slack, bound_N, block.cost_N)
        if not (fits and stale):
            if fits:
                picks[m] = i
                picked_gains[m] = bound_N[i]
                spent += block.tokens_N[i]
                m += 1
                take_group(i, block, limits)
                _add(i, block, space, counts_D, prices_D)
            size -= 1
            heap[0] = heap[size]
        if size > 0:
            _sift_down(heap, size, 0, bound_N, block.cost_N, block.rank_N)
    return picks[:m], picked_gains[:m]


@_jit
def follow(block: Block, space: Space, counts_D: Any, prices_D: Any) -> Any:
    """Marginal gains int64 (N,) of putting the rows in as they come; updates the counts."""
    out = np.empty(block.neurons_NA.shape[0], np.int64)
    for i in range(len(out)):
        out[i] = block.bonus_N[i] + row_gain(
            i, block.neurons_NA, block.paths_NP, space.base_A, space.n_neurons, prices_D
        )
        _add(i, block, space, counts_D, prices_D)
    return out


@_jit
def appraise(block: Block, space: Space, chosen_N: Any, prices_D: Any, losses_D: Any) -> Any:
    """(gain int64 (N,) at the prices, loss int64 (N,) of the chosen rows, else 0); 0 if not open.

    One pass over the rows: out of core, reading them is what costs.
    """
    n = block.neurons_NA.shape[0]
    gain_N, loss_N = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for i in range(n):
        if block.open_N[i]:
            gain_N[i] = block.bonus_N[i] + row_gain(
                i, block.neurons_NA, block.paths_NP, space.base_A, space.n_neurons, prices_D
            )
            if chosen_N[i]:
                loss_N[i] = block.bonus_N[i] + row_gain(
                    i, block.neurons_NA, block.paths_NP, space.base_A, space.n_neurons, losses_D
                )
    return gain_N, loss_N
