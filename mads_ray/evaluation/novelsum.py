"""NovelSum: how far each row is from the others, with more weight where the pool is dense.

Yang, Nan, Ye, et al. 2025, "Measuring Data Diversity for Instruction Tuning: A Systematic Analysis
and A Reliable Metric" (ACL 2025, arXiv 2502.17184), and their code, github.com/UmeanNever/NovelSum.
For a set X of n rows in a pool, with the cosine distance d = 1 - cos:

    NovelSum = 1/n sum_i  [ sum_{j != i} w_ij sigma_j^beta d_ij ] / [ sum_{j != i} w_ij ]
    w_ij     = rank_i(j)^-alpha, the rank (from 1) of j among the other rows of X by d_ij
    sigma_j  = 1 / (mean squared distance of j to its K nearest other vectors of the pool + 1e-9)

Sources. The abstract and the README say: a proximity-weighted sum of density-aware distances,
larger in dense regions, taken over all samples. The text of the paper's equations was not at hand;
the formula with sigma of the *other* row j was given to us. The authors' code, which we read, fixes
the rest: the weighted average (not the bare sum) and the mean over i, so that sets of different
sizes compare; ranks from 1 without the row itself (their present default; the paper's figures had
the row itself at rank 1); K = 10, alpha = 1, beta = 0.5; squared Euclidean distances to unique pool
vectors; 1e-9. But their code multiplies by sigma of the row i itself, not of j. `released` is that
version; with beta = 0 both are equal. Their code takes raw embeddings for sigma. Our vectors have
length 1, so the squared distance is 2 d.

With beta > 0 the value depends on the size of the pool (or of its sample): a sparser pool has
smaller sigma. Compare such values within one evaluation only.

Ties in distance go by the order of rows. N rows of the set, P of the pool, S values a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64
from mads_ray.evaluation.vectors import cosine_blocks

NEIGHBOURS = 10
_REGULAR = 1e-9


@dataclass(frozen=True, slots=True)
class NovelSum:
    """NovelSum for one beta: with sigma of the other row (`value`), or of the row (`released`)."""

    beta: float
    value: float
    released: float


def densities(units_NS: F64, pool_PS: F64, neighbours: int = NEIGHBOURS) -> F64:
    """sigma of each row from its K nearest pool vectors: (N,) float64, 1 / squared distance.

    An exact copy of a row is not its neighbour, and copies within the pool count once. Where the
    pool has fewer than K other vectors, all of them count; with none, sigma is 1. Vectors have
    length 1.
    """
    unique_PS = np.unique(pool_PS, axis=0)
    number = {vector.tobytes(): p for p, vector in enumerate(unique_PS)}
    own_N = np.array([number.get(v.tobytes(), -1) for v in np.ascontiguousarray(units_NS)])
    sigma_N = np.ones(len(units_NS))
    for block, cosine_BP in cosine_blocks(units_NS, unique_PS):
        square_BP = 2 * (1 - cosine_BP)
        own_B = own_N[block]
        square_BP[np.flatnonzero(own_B >= 0), own_B[own_B >= 0]] = np.inf
        k = min(neighbours, square_BP.shape[1])
        nearest_BK = np.partition(square_BP, k - 1, axis=1)[:, :k] if k else square_BP
        there_BK = np.isfinite(nearest_BK)  # in a small pool the row itself may be among them
        found_B = there_BK.sum(1)
        total_B = np.where(there_BK, nearest_BK, 0.0).sum(1)
        sigma_B = 1 / (total_B / np.maximum(found_B, 1) + _REGULAR)
        sigma_N[block] = np.where(found_B > 0, sigma_B, 1.0)
    return sigma_N


def novelsum(
    units_NS: F64, sigma_N: F64, betas: Sequence[float], alpha: float = 1.0
) -> list[NovelSum]:
    """NovelSum for each beta; 0 for fewer than two rows. Vectors are of length 1.

    Time O(N^2 (S + log N)), memory a block of rows times N.
    """
    n = len(units_NS)
    if n < 2:
        return [NovelSum(beta, 0.0, 0.0) for beta in betas]
    weight_R = np.arange(1, n, dtype=np.float64) ** -alpha
    weight_R /= weight_R.sum()
    factor_TN: npt.NDArray[np.float64] = np.stack([sigma_N**beta for beta in betas])
    value_T, released_T = np.zeros(len(betas)), np.zeros(len(betas))
    for block, cosine_BN in cosine_blocks(units_NS, units_NS):
        distance_BN = 1 - cosine_BN
        rows_B = np.arange(len(distance_BN))
        distance_BN[rows_B, block.start + rows_B] = np.inf  # the row itself comes last
        order_BR = np.argsort(distance_BN, axis=1, kind="stable")[:, :-1]
        sorted_BR = np.take_along_axis(distance_BN, order_BR, axis=1) * weight_R
        for t, factor_N in enumerate(factor_TN):
            value_T[t] += (sorted_BR * factor_N[order_BR]).sum()
            released_T[t] += (sorted_BR.sum(1) * factor_N[block]).sum()
    return [
        NovelSum(float(b), float(v / n), float(r / n))
        for b, v, r in zip(betas, value_T, released_T, strict=True)
    ]
