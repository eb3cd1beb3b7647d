"""Entropy of a set over categories: clusters of the pool, task labels, source files.

    H = -sum over categories c of p_c log p_c,   p_c = the share of the set's rows in c

Shannon's entropy (1948). With clusters of the pool as categories it is the partition entropy that
Yang et al. 2025 (arXiv 2502.17184) compare with; their code (entropy.py of UmeanNever/NovelSum)
takes k-means clusters and log2. Here clusters are those of each level of the run's tree, and
entropy is in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Spread:
    """How a set spreads over categories: it has `reached` of the pool's `categories`.

    `entropy` is in nats. `normalised` = entropy / log(categories): 1 where the set is spread evenly
    over all categories of the pool, None where the pool has only one. A set of k rows cannot exceed
    log(k) / log(categories).
    """

    reached: int
    categories: int
    entropy: float
    normalised: float | None


def entropy(counts_C: npt.NDArray[np.integer[Any]]) -> float:
    """Shannon entropy of counts (C,) in nats; 0 where there are none (0 log 0 = 0)."""
    some_C = counts_C[counts_C > 0].astype(np.float64)
    if len(some_C) < 2:
        return 0.0
    share_C = some_C / some_C.sum()
    return float(-(share_C * np.log(share_C)).sum())


def spread(counts_C: npt.NDArray[np.integer[Any]], pool_C: npt.NDArray[np.integer[Any]]) -> Spread:
    """The spread of a set with these counts (C,) over the categories of a pool with counts (C,)."""
    categories = int((pool_C > 0).sum())
    nats = entropy(counts_C)
    normalised = nats / math.log(categories) if categories > 1 else None
    return Spread(int((counts_C > 0).sum()), categories, nats, normalised)
