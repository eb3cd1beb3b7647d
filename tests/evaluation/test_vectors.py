"""Unit rows and blocks of cosines."""

import numpy as np
import pytest

from mads_ray.evaluation.vectors import BLOCK_ROWS, cosine_blocks, unit_rows


def test_rows_have_length_one_and_zeros_stay_zeros():
    rows = np.array([[3, 4], [0, 0], [0, -2]], np.float16)
    assert unit_rows(rows).tolist() == [[0.6, 0.8], [0, 0], [0, -1]]
    assert unit_rows(rows).dtype == np.float64


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_no_number_has_no_direction(bad):
    with pytest.raises(ValueError, match="no direction"):
        unit_rows(np.array([[1, bad]], np.float16))


@pytest.mark.parametrize("rows", [1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 3])
def test_blocks_are_the_whole_matrix(rows):
    rng = np.random.default_rng(rows)
    ours, others = unit_rows(rng.normal(size=(rows, 5))), unit_rows(rng.normal(size=(7, 5)))
    found = np.full((rows, 7), np.nan)
    for block, cosine_BM in cosine_blocks(ours, others):
        assert len(cosine_BM) <= BLOCK_ROWS
        found[block] = cosine_BM
    wanted = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in others] for x in ours]
    assert found == pytest.approx(np.array(wanted), abs=1e-14)
