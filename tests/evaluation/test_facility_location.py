"""Facility location against two loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.evaluation.facility_location import facility_location
from mads_ray.evaluation.vectors import unit_rows


def slow(rows, pool):
    def cosine(x, y):
        dot = sum(float(a) * float(b) for a, b in zip(x, y, strict=True))
        return dot / (math.hypot(*x) * math.hypot(*y))

    return sum(max(cosine(p, x) for x in rows) for p in pool) / len(pool)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 10**6))
def test_it_is_the_mean_of_the_best_cosines(n, p, seed):
    rng = np.random.default_rng(seed)
    rows, pool = rng.normal(size=(n, 4)), rng.normal(size=(p, 4))
    found = facility_location(unit_rows(rows), unit_rows(pool))
    assert found == pytest.approx(slow(rows, pool))
    more = np.concatenate([rows, rng.normal(size=(3, 4))])
    assert facility_location(unit_rows(more), unit_rows(pool)) >= found - 1e-12


def test_a_set_that_holds_the_pool_is_all_of_it():
    pool = unit_rows(np.random.default_rng(0).normal(size=(700, 8)))
    assert facility_location(pool, pool) == pytest.approx(1)


def test_nothing_represents_nothing():
    for rows, pool in ((np.empty((0, 2)), np.eye(2)), (np.eye(2), np.empty((0, 2)))):
        with pytest.raises(ValueError, match="at least one row"):
            facility_location(rows, pool)
