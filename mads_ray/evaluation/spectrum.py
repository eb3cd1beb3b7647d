"""Log-determinant and Vendi score: how many directions a set spreads over.

Both are functions of the eigenvalues of the cosine kernel K = X X^T, where X holds the N rows at
length 1. Its eigenvalues that are not zero are those of the S x S matrix X^T X, so the smaller
matrix is decomposed: O(N S min(N, S)) time, and memory for min(N, S)^2 numbers.
"""

from __future__ import annotations

import numpy as np

from mads_ray.arrays import F64


def kernel_eigenvalues(units_NS: F64) -> F64:
    """Eigenvalues (min(N, S),) of the cosine kernel, ascending, at least 0. All others are 0.

    Their sum is N, less the rows of zeros. Vectors (N, S) are float64 of length 1.
    """
    n, width = units_NS.shape
    gram = units_NS @ units_NS.T if n <= width else units_NS.T @ units_NS
    found_M: F64 = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    return found_M


def log_determinant(eigenvalues_M: F64) -> float:
    """log det(I + K) = sum over eigenvalues of log(1 + lambda), in nats.

    The log of the normaliser of the determinantal point process with the L-ensemble K (Kulesza and
    Taskar 2012, "Determinantal Point Processes for Machine Learning"). With I, because det(K) alone
    is 0 where there are more rows than dimensions. The value grows with the number of rows, so
    compare only sets of one size.
    """
    return float(np.log1p(eigenvalues_M).sum())


def vendi_score(eigenvalues_M: F64) -> float:
    """exp(-sum p log p), where p = lambda / N are the eigenvalues of K / N.

    It is the effective number of directions, from 1 (all rows are alike) to min(N, S).

    Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning"
    (arXiv 2210.02410). 0 where there is no row, or only rows of zeros.
    """
    total = eigenvalues_M.sum()
    if not total > 0:
        return 0.0
    share_M = eigenvalues_M[eigenvalues_M > 0] / total
    return float(np.exp(-(share_M * np.log(share_M)).sum()))
