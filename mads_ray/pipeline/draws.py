"""Random draws over rows that nobody has together: the smallest hashes, found by histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mads_ray.coverage.objective import I64
from mads_ray.pipeline.holder_pool import HolderPool
from mads_ray.pipeline.holders import Stream

U64 = npt.NDArray[np.uint64]


def find_cuts(
    pool: HolderPool, level: int, streams: Sequence[Stream], costs_B: I64, by_tokens: bool
) -> U64:
    """Hash up to which each stream's order may be taken within each cost, (streams, B).

    Costs are rows, or tokens, ascending. One histogram over 2^16 bins tells the bin of every cut;
    only the hashes in those bins come to the driver.
    """
    histogram = pool.total("draw_histogram", level, streams, by_tokens)
    before = np.cumsum(histogram, axis=1) - histogram
    # The last bin that starts within the cost holds the cut (or all of it fits).
    at_SB = [np.searchsorted(b, costs_B, side="right") - 1 for b in before]
    bins = [np.unique(at_B) for at_B in at_SB]
    answers = pool.all("draw_hashes", level, streams, bins)
    cuts = np.zeros((len(streams), len(costs_B)), np.uint64)
    for s in range(len(streams)):
        hashes = np.concatenate([a[s][0] for a in answers])
        tokens = np.concatenate([a[s][1] for a in answers])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        spent = (tokens[order] if by_tokens else np.ones(len(order))).astype(np.int64)
        top = (hashes >> np.uint64(48)).astype(np.int64)
        for b, cost in enumerate(costs_B):
            mine = top == at_SB[s][b]
            within = before[s, at_SB[s][b]] + np.cumsum(spent[mine]) <= cost
            # No row of the bin fits: everything below the bin does.
            below = np.uint64(int(at_SB[s][b]) << 48)
            last = hashes[mine][within]
            cuts[s, b] = last[-1] if len(last) else max(int(below) - 1, 0)
    return cuts
