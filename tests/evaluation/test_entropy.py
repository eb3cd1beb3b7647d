"""Entropy against scipy and a sum."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.evaluation.entropy import entropy, spread

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@settings(deadline=None)
@given(COUNTS)
def test_it_is_shannons(counts):
    total = sum(counts)
    wanted = -sum(c / total * math.log(c / total) for c in counts if c) if total else 0
    found = entropy(np.array(counts))
    assert found == pytest.approx(wanted, abs=1e-12)
    if total:
        assert found == pytest.approx(scipy.stats.entropy(counts), abs=1e-12)


@settings(deadline=None)
@given(COUNTS, st.integers(0, 10**6))
def test_it_is_normalised_by_what_the_pool_has(pool, seed):
    mine = np.random.default_rng(seed).integers(0, np.array(pool) + 1)
    found = spread(mine, np.array(pool))
    assert found.reached == sum(c > 0 for c in mine)
    assert found.categories == sum(c > 0 for c in pool)
    if found.categories > 1:
        assert found.normalised == pytest.approx(entropy(mine) / math.log(found.categories))
        assert 0 <= found.normalised <= 1 + 1e-12
    else:
        assert found.normalised is None


def test_even_and_single():
    assert spread(np.array([2, 2, 2, 0]), np.array([5, 9, 2, 0])).normalised == pytest.approx(1)
    assert spread(np.array([7]), np.array([9])).entropy == 0
