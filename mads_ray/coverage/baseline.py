"""Random core sets to compare with: the honest zero of every figure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mads_ray.coverage.objective import I32, I64, Objective
from mads_ray.coverage.rows import FeatureRows

FIRST_DRAW = 1  # stream 0 of the seeded hash breaks ties; draw d is stream 1 + d


def counts_below(
    rows: FeatureRows,
    objective: Objective,
    index_M: I64,
    hashes_M: npt.NDArray[np.uint64],
    cuts_B: npt.NDArray[np.uint64],
) -> I32:
    """Counts of {rows at `index_M` with hash <= cut} for ascending cuts, int32 (B, D).

    Counts of shards add up, so a draw over the whole corpus never gathers its rows.
    """
    out = np.zeros((len(cuts_B), len(objective.weight_D)), np.int32)
    bucket_M = np.searchsorted(cuts_B, hashes_M, side="left")
    for b in range(len(cuts_B)):
        out[b] = objective.counts(rows, index_M[bucket_M == b])
    return np.cumsum(out, axis=0, dtype=np.int32)
