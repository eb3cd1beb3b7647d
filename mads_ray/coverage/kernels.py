"""Compiled inner loops over uint16-within-layer states (numba, cached on disk).

N rows, A active neurons a row, P tree levels, D features. A feature of slot a is
base_A[a] + neurons_NA[i, a]; one of level p is n_neurons + paths_NP[i, p].
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)


@_jit
def row_gain(
    i: int, neurons_NA: Any, paths_NP: Any, base_A: Any, n_neurons: int, prices_D: Any
) -> Any:
    """Sum of the prices of row i's features."""
    gain = prices_D[0] * 0
    for a in range(neurons_NA.shape[1]):
        gain += prices_D[base_A[a] + np.int64(neurons_NA[i, a])]
    for p in range(paths_NP.shape[1]):
        gain += prices_D[n_neurons + paths_NP[i, p]]
    return gain


@_jit
def gains(neurons_NA: Any, paths_NP: Any, base_A: Any, n_neurons: int, prices_D: Any) -> Any:
    """Gain of every row against a price vector; of the prices' dtype, (N,)."""
    out = np.empty(neurons_NA.shape[0], prices_D.dtype)
    for i in range(neurons_NA.shape[0]):
        out[i] = row_gain(i, neurons_NA, paths_NP, base_A, n_neurons, prices_D)
    return out


@_jit
def _add(
    i: int,
    neurons_NA: Any,
    paths_NP: Any,
    base_A: Any,
    n_neurons: int,
    counts_D: Any,
    prices_D: Any,
    class_D: Any,
    marginal_CM: Any,
) -> None:
    for a in range(neurons_NA.shape[1]):
        j = base_A[a] + np.int64(neurons_NA[i, a])
        counts_D[j] += 1
        prices_D[j] = marginal_CM[class_D[j], counts_D[j]]
    for p in range(paths_NP.shape[1]):
        j = n_neurons + np.int64(paths_NP[i, p])
        counts_D[j] += 1
        prices_D[j] = marginal_CM[class_D[j], counts_D[j]]


@_jit
def _before(a: int, b: int, bound_N: Any, rank_N: Any) -> Any:
    """Whether row a comes before row b: larger gain, then lower tie rank."""
    if bound_N[a] != bound_N[b]:
        return bound_N[a] > bound_N[b]
    return rank_N[a] < rank_N[b]


@_jit
def _sift_down(heap: Any, size: int, at: int, bound_N: Any, rank_N: Any) -> None:
    row = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(heap[child + 1], heap[child], bound_N, rank_N):
            child += 1
        if not _before(heap[child], row, bound_N, rank_N):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = row


@_jit
def lazy_greedy(
    neurons_NA: Any,
    paths_NP: Any,
    base_A: Any,
    n_neurons: int,
    counts_D: Any,
    prices_D: Any,
    class_D: Any,
    marginal_CM: Any,
    rank_N: Any,
    tokens_N: Any,
    max_rows: int,
    max_tokens: int,
) -> Any:
    """Minoux's lazy greedy (1978): stale gains are upper bounds, re-evaluated only at the top.

    Returns (picks int64, gains int64) in greedy order; updates `counts_D` and `prices_D`. A row
    that no longer fits the token budget is passed over.
    """
    n = neurons_NA.shape[0]
    bound_N = gains(neurons_NA, paths_NP, base_A, n_neurons, prices_D)
    stamp_N = np.zeros(n, np.int64)
    heap = np.arange(n)
    size = n
    for at in range(n // 2 - 1, -1, -1):
        _sift_down(heap, size, at, bound_N, rank_N)
    limit = min(max_rows, n)
    picks = np.empty(limit, np.int64)
    picked_gains = np.empty(limit, np.int64)
    m = 0
    spent = 0
    while m < limit and size > 0:
        i = heap[0]
        if spent + tokens_N[i] > max_tokens:
            size -= 1
            heap[0] = heap[size]
            _sift_down(heap, size, 0, bound_N, rank_N)
        elif stamp_N[i] == m:
            picks[m] = i
            picked_gains[m] = bound_N[i]
            spent += tokens_N[i]
            m += 1
            _add(
                i, neurons_NA, paths_NP, base_A, n_neurons, counts_D, prices_D, class_D, marginal_CM
            )
            size -= 1
            heap[0] = heap[size]
            if size > 0:
                _sift_down(heap, size, 0, bound_N, rank_N)
        else:
            bound_N[i] = row_gain(i, neurons_NA, paths_NP, base_A, n_neurons, prices_D)
            stamp_N[i] = m
            _sift_down(heap, size, 0, bound_N, rank_N)
    return picks[:m], picked_gains[:m]
