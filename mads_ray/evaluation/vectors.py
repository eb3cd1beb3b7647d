"""Rows as unit vectors, and their cosine similarities a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64

BLOCK_ROWS = 512  # times the rows compared with: the largest matrix that a metric holds


def unit_rows(rows_NS: npt.NDArray[Any]) -> F64:
    """Rows (N, S) of any float dtype at length 1, float64; a row of zeros stays one (cosine 0).

    float64, because 1 - cos of near-copies is lost in the rounding of float32.
    Raises ValueError where a value is not finite.
    """
    wide_NS = rows_NS.astype(np.float64)
    if not np.isfinite(wide_NS).all():
        raise ValueError("vectors with infinite or undefined values have no direction")
    length_N1 = np.linalg.norm(wide_NS, axis=1, keepdims=True)
    return wide_NS / np.where(length_N1 > 0, length_N1, 1.0)


def cosine_blocks(units_NS: F64, others_MS: F64) -> Iterator[tuple[slice, F64]]:
    """For blocks of B rows: which rows they are, and cosines (B, M) to the others, in [-1, 1]."""
    for start in range(0, len(units_NS), BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, len(units_NS)))
        yield block, np.clip(units_NS[block] @ others_MS.T, -1.0, 1.0)
