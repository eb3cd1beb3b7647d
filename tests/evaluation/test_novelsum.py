"""NovelSum against loops over the formula, and against the authors' way to compute it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.evaluation.novelsum import densities, novelsum
from mads_ray.evaluation.vectors import BLOCK_ROWS, unit_rows


def distance(x, y):
    dot = sum(float(a) * float(b) for a, b in zip(x, y, strict=True))
    return 1 - dot / (math.hypot(*x) * math.hypot(*y))


def slow_density(x, pool, k):
    """1 / mean squared distance to the k nearest of the pool that are not x itself."""
    others = {tuple(p / np.linalg.norm(p)) for p in pool} - {tuple(x / np.linalg.norm(x))}
    squares = sorted(2 * distance(x, p) for p in others)[:k]
    return 1 / (sum(squares) / len(squares) + 1e-9) if squares else 1.0


def slow_novelsum(rows, sigma, alpha, beta, own=False):
    total = 0.0
    for i, x in enumerate(rows):
        others = sorted((distance(x, y), j) for j, y in enumerate(rows) if j != i)
        weights = [1 / rank**alpha for rank in range(1, len(others) + 1)]
        terms = [
            w * sigma[i if own else j] ** beta * d
            for w, (d, j) in zip(weights, others, strict=True)
        ]
        total += sum(terms) / sum(weights)
    return total / len(rows)


def points(seed, n, width=6):
    return np.random.default_rng(seed).normal(size=(n, width))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("n", [2, 3, 40])
def test_it_is_the_formula(n, alpha):
    rows = points(n, n)
    sigma = np.random.default_rng(1).uniform(0.1, 5, n)
    for found in novelsum(unit_rows(rows), sigma, (0.0, 0.5, 1.0), alpha):
        assert found.value == pytest.approx(slow_novelsum(rows, sigma, alpha, found.beta))
        own = slow_novelsum(rows, sigma, alpha, found.beta, own=True)
        assert found.released == pytest.approx(own)


def test_the_released_code_averages_rows_of_a_weighted_matrix():
    """As the authors' repository has it: distances times the density of the row, without the
    diagonal, sorted, averaged with weights 1 / rank, mean over rows."""
    rows, pool = points(0, 30), points(1, 80)
    unit = unit_rows(rows)
    sigma = densities(unit, unit_rows(pool))
    matrix = 1 - unit @ unit.T
    np.fill_diagonal(matrix, np.inf)
    weighted = np.sort(matrix * np.sqrt(sigma)[:, None], axis=1)[:, :-1]
    wanted = np.average(weighted, axis=1, weights=1 / np.arange(1, 30)).mean()
    assert novelsum(unit, sigma, (0.5,))[0].released == pytest.approx(wanted)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_density_is_that_of_the_nearest_others_in_the_pool(k):
    pool = points(3, 60)
    pool = np.concatenate([pool, pool[:5]])  # copies count once
    rows = np.concatenate([pool[:20], points(4, 10)])  # some are in the pool, some are not
    found = densities(unit_rows(rows), unit_rows(pool), k)
    assert found == pytest.approx([slow_density(x, pool, k) for x in rows])


def test_density_in_a_small_pool():
    pool = points(5, 4)
    found = densities(unit_rows(pool), unit_rows(pool), 10)
    assert found == pytest.approx([slow_density(x, pool, 3) for x in pool])
    assert densities(unit_rows(pool[:1]), unit_rows(pool[:1])).tolist() == [1.0]


def test_blocks_do_not_show():
    """More rows than a block, against whole matrices."""
    n = BLOCK_ROWS + 90
    unit, pool = unit_rows(points(6, n)), unit_rows(points(7, n + 1))
    squares = np.sort(((unit[:, None] - pool) ** 2).sum(2), axis=1)[:, :10]
    sigma = densities(unit, pool)
    assert sigma == pytest.approx(1 / (squares.mean(1) + 1e-9))
    matrix = 1 - unit @ unit.T
    np.fill_diagonal(matrix, np.inf)
    order = np.argsort(matrix, axis=1)[:, :-1]
    terms = np.take_along_axis(matrix, order, axis=1) * np.sqrt(sigma)[order]
    wanted = np.average(terms, axis=1, weights=1 / np.arange(1, n)).mean()
    assert novelsum(unit, sigma, (0.5,))[0].value == pytest.approx(wanted)


def test_copies_and_single_rows_are_no_news():
    alike = unit_rows(np.ones((5, 3)))
    assert novelsum(alike, np.ones(5), (0.5,))[0].value == pytest.approx(0, abs=1e-12)
    for n in (0, 1):
        assert [f.value for f in novelsum(alike[:n], np.ones(n), (0.0, 0.5))] == [0, 0]


def test_rows_at_right_angles_are_all_news():
    assert novelsum(np.eye(6), np.ones(6), (0.0,))[0].value == pytest.approx(1)


@settings(deadline=None)
@given(st.integers(2, 25), st.integers(0, 10**6), st.floats(0.1, 10))
def test_order_and_scale_of_rows_do_not_matter(n, seed, scale):
    rows = points(seed, n)
    sigma = np.random.default_rng(seed).uniform(0.5, 2, n)
    found = novelsum(unit_rows(rows), sigma, (0.0, 0.5))
    order = np.random.default_rng(seed + 1).permutation(n)
    other = novelsum(unit_rows(scale * rows[order]), sigma[order], (0.0, 0.5))
    for a, b in zip(found, other, strict=True):
        assert (a.value, a.released) == pytest.approx((b.value, b.released))
    assert found[0].value == pytest.approx(found[0].released)  # beta 0: density has no part
    assert 0 <= found[0].value <= 2
