"""Random core sets to compare with: the honest zero of every figure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mads_ray.corpus.identity import seeded_hash
from mads_ray.coverage.objective import Objective
from mads_ray.coverage.rows import FeatureRows

_FIRST_STREAM = 1  # stream 0 breaks ties


def draw_hashes(uids: list[str], seed: int, draw: int) -> npt.NDArray[np.uint64]:
    """The order of random draw number `draw`: a core set of K is the K smallest hashes."""
    return seeded_hash(uids, seed, _FIRST_STREAM + draw)


def counts_below(
    rows: FeatureRows,
    objective: Objective,
    hashes_N: npt.NDArray[np.uint64],
    cuts_B: npt.NDArray[np.uint64],
) -> npt.NDArray[np.int32]:
    """Counts of {rows with hash <= cut} for ascending cuts, int32 (B, D).

    Counts of shards add up, so a draw over the whole corpus never gathers its rows.
    """
    out = np.zeros((len(cuts_B), len(objective.class_D)), np.int32)
    bucket_N = np.searchsorted(cuts_B, hashes_N, side="left")
    for b in range(len(cuts_B)):
        out[b] = objective.counts(rows, np.flatnonzero(bucket_N == b))
    return np.cumsum(out, axis=0, dtype=np.int32)
