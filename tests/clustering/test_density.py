import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mads_ray.clustering.density import (
    LEAST_PRIOR,
    PRIOR,
    WEIGHT_UNIT,
    BinSums,
    PoolDensity,
    keep_alike,
    length_bins,
    weights_by_count,
)


def rows(n, seed=0, landmarks=100):
    rng = np.random.default_rng(seed)
    alike = rng.integers(0, landmarks, n).astype(np.int32)
    return alike, np.rint(np.exp(rng.normal(5, 1, n))).astype(np.int32) + 1


@pytest.mark.parametrize("landmarks", [1, 7, 200, 5000])
@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
def test_weights_follow_the_formula(landmarks, balance):
    prior = max(PRIOR * landmarks, LEAST_PRIOR)
    wanted = [2**20 * (1 + c / prior) ** -balance for c in range(landmarks + 1)]
    got = weights_by_count(landmarks, balance)
    assert got.dtype == np.int64
    assert got.tolist() == pytest.approx(wanted, abs=0.51)


def test_the_prior_is_at_least_four_landmarks():
    few = weights_by_count(50, 1.0)
    assert few[0] / few[4] == 2  # not 33 times: a quarter of a percent of 50 is an eighth


@pytest.mark.parametrize("tokens", [*range(1, 200), 2**20, 2**31 - 1])
def test_bins_are_half_octaves(tokens):
    b = int(length_bins(np.array([tokens]))[0])
    # tokens in [2^(b/2), 2^((b+1)/2)), in whole numbers
    assert 2**b <= tokens**2 < 2 ** (b + 1)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_every_bin_weighs_as_many_rows_as_it_has(balance):
    (alike, tokens), by_count = rows(5000), weights_by_count(100, balance)
    sums = BinSums.of(alike, tokens, by_count)
    weights, bins = sums.weights(alike, tokens, by_count), length_bins(tokens)
    for b in np.unique(bins):
        mine = bins == b
        assert weights[mine].sum() / WEIGHT_UNIT == pytest.approx(mine.sum(), rel=0.001)
        order = np.argsort(alike[mine], kind="stable")
        assert (np.diff(weights[mine][order]) <= 0).all()  # the more alike, the lighter


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.integers(1, 6), st.floats(0.01, 1))
def test_weights_do_not_depend_on_shards(n, parts, balance):
    (alike, tokens), by_count = rows(n, n), weights_by_count(100, balance)
    whole = BinSums.of(alike, tokens, by_count)
    pieces = np.array_split(np.random.default_rng(parts).permutation(n), parts)
    sums = BinSums.none()
    for p in pieces:
        sums = sums + BinSums.of(alike[p], tokens[p], by_count)
    together = np.empty(n, np.int64)
    for p in pieces:
        together[p] = sums.weights(alike[p], tokens[p], by_count)
    assert together.tolist() == whole.weights(alike, tokens, by_count).tolist()


def density_of(folder, alike, tokens, balance, *, total, landmarks=100):
    by_count = weights_by_count(landmarks, balance)
    keep_alike(folder, 3, alike)
    sums = BinSums.of(alike, tokens, by_count)
    return PoolDensity(folder, total, landmarks, by_count, sums, "digest")


def test_balance_0_weighs_all_rows_1(tmp_path):
    alike, tokens = rows(300)
    flat = density_of(tmp_path, alike, tokens, 0.0, total=300)
    assert flat.flat
    assert flat.weights(3, tokens).tolist() == [1] * 300
    assert not density_of(tmp_path, alike, tokens, 0.01, total=300).flat


def test_like_counts_the_row_itself_and_scales_landmarks_to_the_pool(tmp_path):
    alike, tokens = rows(300)
    exact = density_of(tmp_path, alike, tokens, 1.0, total=100)
    assert exact.like(3).tolist() == (1 + alike).tolist()
    sampled = density_of(tmp_path, alike, tokens, 1.0, total=1_000_000_000)
    assert sampled.like(3).tolist() == (1 + alike.astype(int) * 10_000_000).tolist()


def test_what_is_saved_is_read_back(tmp_path):
    alike, tokens = rows(300)
    before = density_of(tmp_path, alike, tokens, 0.7, total=500)
    before.save()
    after = PoolDensity.load(tmp_path)
    assert (after.rows, after.landmarks, after.digest) == (500, 100, "digest")
    assert after.weights(3, tokens).tolist() == before.weights(3, tokens).tolist()


def test_a_billion_rows_fit():
    sums = BinSums.of(np.zeros(1, np.int32), np.full(1, 200), weights_by_count(4096, 1.0))
    many = BinSums(sums.rows_B * 10**9, sums.weight_B * 10**9)
    by_count = weights_by_count(4096, 1.0)
    got = many.weights(np.array([0, 4096], np.int32), np.array([200, 200]), by_count)
    assert got[0] == WEIGHT_UNIT
    assert got[1] == round(WEIGHT_UNIT / (1 + 4096 / (PRIOR * 4096)))
    assert math.log2(int(many.weight_B.max())) < 62
