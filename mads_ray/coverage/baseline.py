"""Random core sets to compare with: the honest zero of every figure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mads_ray.coverage.objective import I32, I64, Objective
from mads_ray.coverage.rows import FeatureRows

FIRST_DRAW = 1  # stream 0 of the seeded hash breaks ties; draw d is stream 1 + d


def add_counts_below(
    rows: FeatureRows,
    objective: Objective,
    index_M: I64,
    hashes_M: npt.NDArray[np.uint64],
    cuts_B: npt.NDArray[np.uint64],
    counts_BD: I32,
) -> None:
    """Add the counts of {rows at `index_M` with hash in (cut before, cut]} for ascending cuts.

    Counts of shards add up, so a draw over the whole corpus never gathers its rows; their
    cumulative sum over B are the counts of the draws.
    """
    bucket_M = np.searchsorted(cuts_B, hashes_M, side="left")
    for b in range(len(cuts_B)):
        objective.add_counts(rows, index_M[bucket_M == b], counts_BD[b])
