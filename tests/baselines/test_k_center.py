import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.baselines import k_center

quick = settings(max_examples=80, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def instance(seed, n):
    """Few values and copies, so that distances tie often; multiples of 2^-14."""
    rng = random.Random(seed)
    length = rng.randint(1, 4)
    values = rng.choice([(-1.0, 0.0, 1.0), (0.0, 0.5), tuple(i / 16384 for i in range(99))])
    rows = [[rng.choice(values) for _ in range(length)] for _ in range(n)]
    return rng, np.array(rows, np.float64).reshape(n, length)


def square(a, b):
    return sum((round(x * 16384) - round(y * 16384)) ** 2 for x, y in zip(a, b, strict=True))


def naive(rows, k, first):
    rows = rows.tolist()
    picks, radius = [first] if rows and k else [], []
    while picks:
        left = [i for i in range(len(rows)) if i not in picks]
        nearest = {i: min(square(rows[i], rows[p]) for p in picks) for i in left}
        radius.append(math.sqrt(max(nearest.values(), default=0)) / 16384)
        if len(picks) == min(k, len(rows)):
            break
        picks.append(max(left, key=lambda i: nearest[i]))  # the first of equals
    return picks, radius


def covering(rows, picks):
    """The distance from the farthest row to its nearest pick."""
    nearest = [min(square(r, rows[p]) for p in picks) for r in rows]
    return math.sqrt(max(nearest)) / 16384


def best_radius(rows, k):
    return min(covering(rows, c) for c in itertools.combinations(range(len(rows)), k))


@quick
@given(seeds, st.integers(1, 20), st.integers(0, 25))
def test_equals_the_reference(seed, n, k):
    rng, rows = instance(seed, n)
    first = rng.randrange(n)
    picks, radius = k_center(rows, k, first)
    assert picks.dtype == np.int64
    assert (picks.tolist(), radius.tolist()) == naive(rows, k, first)
    for dtype in (np.float16, np.float32):
        if (rows.astype(dtype) == rows).all():
            assert k_center(rows.astype(dtype), k, first)[0].tolist() == picks.tolist()


@quick
@given(seeds, st.integers(1, 20))
def test_every_prefix_is_the_traversal_of_that_size(seed, n):
    _, rows = instance(seed, n)
    picks, radius = k_center(rows, n)
    assert sorted(picks.tolist()) == list(range(n))
    assert (np.diff(radius) <= 0).all()
    assert radius[-1] == 0
    for k in range(n):
        assert k_center(rows, k)[0].tolist() == picks[:k].tolist()


@quick
@given(seeds, st.integers(1, 9), st.integers(1, 4))
def test_within_twice_the_best_radius(seed, n, k):
    rng, rows = instance(seed, n)
    picks, radius = k_center(rows, k, rng.randrange(n))
    assert radius[-1] == covering(rows, picks)
    assert radius[-1] <= 2 * best_radius(rows, min(k, n)) + 1e-12


def test_identical_rows_follow_in_canonical_order():
    picks, radius = k_center(np.ones((5, 3), np.float16), 4, first=2)
    assert picks.tolist() == [2, 0, 1, 3]
    assert radius.tolist() == [0, 0, 0, 0]
    rows = np.array([[0.0], [1], [0], [1], [0.5]])
    assert k_center(rows, 5)[0].tolist() == [0, 1, 4, 2, 3]


def test_nothing_and_everything():
    none = np.empty((0, 4), np.float16)
    for k in (0, 3):
        assert [x.tolist() for x in k_center(none, k)] == [[], []]
    rows = np.eye(3)
    assert [x.tolist() for x in k_center(rows, 0)] == [[], []]
    assert k_center(rows, 99)[0].tolist() == [0, 1, 2]


def test_a_wrong_start_and_values_that_would_overflow_are_refused():
    for first in (-1, 3):
        with pytest.raises(ValueError, match="first"):
            k_center(np.eye(3), 2, first)
    for value in (np.inf, np.nan, 1e6):
        with pytest.raises(ValueError, match="too large"):
            k_center(np.array([[0.0, value]]), 1)


def test_large_values_are_exact_too():
    rows = np.array([[0.0], [30000.0], [-30000.0], [29999.5]], np.float16)
    picks, radius = k_center(rows, 3)
    assert picks.tolist() == naive(rows.astype(np.float64), 3, 0)[0]
    assert radius.tolist() == naive(rows.astype(np.float64), 3, 0)[1]


def test_every_block_of_a_sketch_counts():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 131))
    rows = (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float16)
    quantised = np.rint(rows.astype(np.float64) * 16384) / 16384
    picks, radius = k_center(rows, 20, 7)
    assert (picks.tolist(), radius.tolist()) == naive(quantised, 20, 7)
