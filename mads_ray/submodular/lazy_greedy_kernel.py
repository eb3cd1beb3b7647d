"""The compiled loop of lazy greedy: a heap of upper bounds, each kept in two parts.

N rows, H places of the heap, of which `size` are in use; the row that comes first is at 0. Bounds
and costs lie in the order of the heap, so that a comparison reads neighbours in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mads_ray.submodular.jit import jit
from mads_ray.submodular.kernels import (
    Block,
    Limits,
    Space,
    add,
    clusters_gain,
    fits,
    layers_gain,
    take_group,
)
from mads_ray.submodular.prefetch import prefetch_part

# Halves are evaluated in turn, so that one is stale by a whole cycle and the other by half of one:
# a quarter fewer evaluations for the same bound. Thirds save more and lose it to the heap.
PARTS = 2


@jit
def _before(a: Any, b: Any, row_H: Any, bound_H: Any, cost_H: Any, rank_N: Any) -> bool:
    """Whether place a comes before place b: larger bound for its cost, then lower tie rank."""
    left, right = bound_H[a] * cost_H[b], bound_H[b] * cost_H[a]
    if left != right:
        return bool(left > right)
    return bool(rank_N[row_H[a]] < rank_N[row_H[b]])


@jit
def _sift_down(size: int, at: int, row_H: Any, bound_H: Any, cost_H: Any, rank_N: Any) -> None:
    row, bound, cost = row_H[at], bound_H[at], cost_H[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(child + 1, child, row_H, bound_H, cost_H, rank_N):
            child += 1
        left, right = bound_H[child] * cost, bound * cost_H[child]
        if left < right or (left == right and rank_N[row] < rank_N[row_H[child]]):
            break
        row_H[at], bound_H[at], cost_H[at] = row_H[child], bound_H[child], cost_H[child]
        at = child
    row_H[at], bound_H[at], cost_H[at] = row, bound, cost


@jit
def _wins(size: int, slack: int, row_H: Any, bound_H: Any, cost_H: Any, rank_N: Any) -> Any:
    """Whether the top, its bound raised by 2^-slack, comes before every other row."""
    bound = bound_H[0] + (bound_H[0] >> slack)
    for at in range(1, min(3, size)):
        left, right = bound * cost_H[at], bound_H[at] * cost_H[0]
        if left < right or (slack >= 63 and left == right and rank_N[row_H[at]] < rank_N[row_H[0]]):
            return False
    return True


@jit
def _part_gain(
    i: Any, part: Any, neurons_NA: Any, paths_NP: Any, layers: int, width: int, prices_D: Any
) -> Any:
    """Sum of the prices of a part of row i's features; the first one has its clusters."""
    first, last = part * layers // PARTS, (part + 1) * layers // PARTS
    each = neurons_NA.shape[1] // layers
    gain = layers_gain(i, first, last, neurons_NA, each, width, prices_D)
    if part == 0:
        gain += clusters_gain(i, paths_NP, layers * width, prices_D)
    return gain


@jit
def lazy_greedy(
    block: Block, space: Space, limits: Limits, slack: int, counts_D: Any, prices_D: Any
) -> Any:
    """Minoux's lazy greedy (1978): stale gains are upper bounds, re-evaluated only at the top.

    The stalest part of a gain comes first, and most rows drop below the next one by it; only a row
    with all parts up to date is picked.

    Returns (picks int64, gains int64) in greedy order; updates counts, prices and limits. A row
    that no longer fits the token budget or its groups is passed over.
    """
    neurons_NA, paths_NP, rank_N = block.neurons_NA, block.paths_NP, block.rank_N
    layers, width = space.layers, space.width
    tokens_N, grouped = block.tokens_N, block.groups_NT.shape[1] > 0
    n = neurons_NA.shape[0]
    parts_NS = np.empty((n, PARTS), np.int64)
    row_H, bound_H, cost_H = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    size = 0
    for i in np.flatnonzero(block.open_N):
        for part in range(PARTS):
            parts_NS[i, part] = _part_gain(i, part, neurons_NA, paths_NP, layers, width, prices_D)
        row_H[size], cost_H[size] = i, block.cost_N[i]
        bound_H[size] = block.bonus_N[i] + parts_NS[i].sum()
        size += 1
    for at in range(size // 2 - 1, -1, -1):
        _sift_down(size, at, row_H, bound_H, cost_H, rank_N)
    turn_N = np.zeros(n, np.uint8)  # the stalest part
    stamp_N = np.zeros(n, np.int64)  # picks that were made when `fresh_N` parts were evaluated
    fresh_N = np.full(n, PARTS, np.uint8)
    limit = min(limits.max_rows, size)
    picks = np.empty(limit, np.int64)
    picked_gains = np.empty(limit, np.int64)
    m = 0
    spent = 0
    while m < limit and size > 0:
        i = row_H[0]
        allowed = spent + tokens_N[i] <= limits.max_tokens and (
            not grouped or fits(i, block, limits, m)
        )
        wins = allowed
        if allowed:
            if stamp_N[i] != m:
                stamp_N[i], fresh_N[i] = m, 0
            for at in range(1, min(3, size)):
                prefetch_part(row_H[at], np.int64(turn_N[row_H[at]]), PARTS, neurons_NA)
            while wins and fresh_N[i] < PARTS:
                due = np.int64(turn_N[i])
                gain = _part_gain(i, due, neurons_NA, paths_NP, layers, width, prices_D)
                bound_H[0] += gain - parts_NS[i, due]
                parts_NS[i, due] = gain
                turn_N[i] = (due + 1) % PARTS
                fresh_N[i] += 1
                wins = _wins(size, slack, row_H, bound_H, cost_H, rank_N)
        if wins:
            picks[m] = i
            picked_gains[m] = bound_H[0]
            spent += tokens_N[i]
            m += 1
            take_group(i, block, limits)
            add(i, block, space, counts_D, prices_D)
        if wins or not allowed:
            size -= 1
            row_H[0], bound_H[0], cost_H[0] = row_H[size], bound_H[size], cost_H[size]
        if size > 0:
            _sift_down(size, 0, row_H, bound_H, cost_H, rank_N)
    return picks[:m], picked_gains[:m]
