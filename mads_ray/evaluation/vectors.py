"""Rows as unit vectors, and their cosine similarities a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64

BLOCK_ROWS = 512  # the largest matrix of a metric has so many rows


def unit_rows(rows_NS: npt.NDArray[Any]) -> F64:
    """Scale rows (N, S) of any float dtype to length 1, float64. A row of zeros stays (cosine 0).

    It is float64 because float32 would round 1 - cos of near-copies away. Raises ValueError where a
    value is not finite.
    """
    wide_NS = rows_NS.astype(np.float64)
    if not np.isfinite(wide_NS).all():
        raise ValueError("vectors with infinite or undefined values have no direction")
    length_N1 = np.linalg.norm(wide_NS, axis=1, keepdims=True)
    return wide_NS / np.where(length_N1 > 0, length_N1, 1.0)


def cosine_blocks(units_NS: F64, others_MS: F64) -> Iterator[tuple[slice, F64]]:
    """Yield blocks of B rows: their slice, and their cosines (B, M) to the others, in [-1, 1]."""
    for start in range(0, len(units_NS), BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, len(units_NS)))
        yield block, np.clip(units_NS[block] @ others_MS.T, -1.0, 1.0)
