"""Overlap against sets, and its expectation against every subset."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.evaluation.core_sets import sorted_words
from mads_ray.evaluation.overlap import overlap


def words(numbers):
    return sorted_words(np.array([[n // 3, n % 3] for n in numbers], np.uint64).reshape(-1, 2))


@settings(deadline=None)
@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 40)))
def test_it_counts_what_both_hold(a, b):
    found = overlap(words(a), words(b), 41)
    assert found.rows == len(a & b)
    assert found.share == len(a & b) / len(a)
    assert found.expected_share == len(b) / 41


def test_chance_is_the_mean_over_all_sets_of_that_size():
    fixed = words([0, 1, 4])
    shares = [overlap(words(some), fixed, 7).share for some in combinations(range(7), 2)]
    assert overlap(words([5, 6]), fixed, 7).expected_share == pytest.approx(np.mean(shares))


def test_what_cannot_be():
    for a, b, rows in (([], [1], 5), ([1], [1, 2], 1)):
        with pytest.raises(ValueError, match="no overlap"):
            overlap(words(a), words(b), rows)
