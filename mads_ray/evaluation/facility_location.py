"""Facility location: how near each row of the pool is to its nearest row of the set.

    F(X) = 1/P sum over pool rows p of max_{x in X} cos(p, x)

The usual monotone submodular measure of how well X represents the pool (Krause and Golovin 2014,
"Submodular Function Maximization"), divided by the number of pool rows.
"""

from __future__ import annotations

import numpy as np

from mads_ray.arrays import F64
from mads_ray.evaluation.vectors import cosine_blocks


def facility_location(units_NS: F64, pool_PS: F64) -> float:
    """Mean over the pool's vectors (P, S) of the largest cosine to a vector of the set (N, S).

    The result is in [-1, 1], and 1 where the set holds the pool. Vectors are float64 of length 1.
    Memory: one block of pool rows times N. Raises ValueError for an empty set or pool.
    """
    if not len(units_NS) or not len(pool_PS):
        raise ValueError("facility location needs at least one row in the set and in the pool")
    nearest = [cosine_BN.max(1) for _, cosine_BN in cosine_blocks(pool_PS, units_NS)]
    return float(np.concatenate(nearest).mean())
