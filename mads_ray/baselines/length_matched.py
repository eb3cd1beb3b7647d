"""Random core sets as long as another one: what is left of a gain once length is taken out.

Core sets of coverage are longer than their pools, and longer rows teach more tokens a row. A random
draw with the same histogram of lengths separates the two. Bin b of B holds the rows with
edges[b-1] <= tokens < edges[b]; the first and last bin are open. N rows, K picks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
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


def length_matched(
    tokens_N: Tokens, hashes_N: npt.NDArray[np.uint64], wanted_counts_B: I64, edges: I64
) -> I64:
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
