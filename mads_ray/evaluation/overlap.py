"""How many rows two sets share, beside the share that chance alone gives.

    share    = |A and B| / |A|
    expected = |B| / N

On average a random set of k of the N pool rows shares k m / N rows with a set of m rows (the mean
of the hypergeometric distribution). That is the share m / N of its own rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from mads_ray.arrays import U64
from mads_ray.evaluation.core_sets import contains


@dataclass(frozen=True, slots=True)
class Overlap:
    """Rows in common, their share of the first set, and the share that a random set would have."""

    rows: int
    share: float
    expected_share: float


def overlap(a_K2: U64, b_M2: U64, pool_rows: int) -> Overlap:
    """The overlap of two sets of uids in one pool: (K, 2) and (M, 2) from `sorted_words`.

    Raises ValueError where the first set is empty or the pool holds fewer rows than the second.
    """
    if not len(a_K2) or pool_rows < len(b_M2):
        raise ValueError(f"no overlap of {len(a_K2)} rows with {len(b_M2)} of {pool_rows}")
    rows = int(contains(b_M2, a_K2).sum())
    return Overlap(rows, rows / len(a_K2), len(b_M2) / pool_rows)
