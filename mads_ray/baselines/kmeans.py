"""Round robin over k-means clusters of the sketches: the usual way to a diverse core set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


def round_robin(
    leaf_N: npt.NDArray[np.integer],
    distance_N: npt.NDArray[np.floating],
    hashes_N: npt.NDArray[np.uint64],
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
