from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    Problem,
    arrays,
    count,
    feature_index,
    hash64,
    quick,
    random_instance,
    zipf_arrays,
)

from mads_ray.coverage.baseline import counts_below, draw_hashes
from mads_ray.coverage.objective import make_objective
from mads_ray.coverage.rows import FeatureRows


@quick
@given(st.integers(0, 2**31 - 1), st.integers(1, 20), st.integers(0, 5))
def test_counts_equal_the_reference(seed, n, draw):
    rng, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    hashes = {e.uid: hash64(e.uid, seed, draw + 1) for e in examples}
    assert draw_hashes([e.uid for e in examples], seed, draw).tolist() == list(hashes.values())
    some = rng.sample(sorted(hashes.values()), min(n, 3))  # cuts at hashes hold their row
    cuts = sorted([*some, 0, rng.getrandbits(64), 2**64 - 1])
    got = counts_below(
        rows, objective, np.array(list(hashes.values()), np.uint64), np.array(cuts, np.uint64)
    )
    for b, cut in enumerate(cuts):
        expected = np.zeros(len(objective.class_D), int)
        for feature, c in count(e for e in examples if hashes[e.uid] <= cut).items():
            expected[feature_index(problem, feature)] = c
        assert got[b].tolist() == expected.tolist()


def test_counts_of_shards_add_up_and_cuts_hold_the_wanted_sizes():
    problem = Problem("sqrt", 2, 60, 4, (3, 9), 0.5, 1000)
    rows, objective = FeatureRows(*zipf_arrays(problem, 1000, 5)), make_objective(*astuple(problem))
    sizes = np.array([1, 2, 17, 150, 999, 1000])
    for draw in range(3):
        hashes = draw_hashes([u.decode() for u in rows.uids], 8, draw)
        cuts = np.sort(hashes)[sizes - 1]
        whole = counts_below(rows, objective, hashes, cuts)
        assert whole.dtype == np.int32
        assert (whole[:, : objective.neurons].sum(1) == sizes * 8).all()
        assert (whole[:, objective.neurons :].sum(1) == sizes * 2).all()
        shards = np.array_split(np.random.default_rng(draw).permutation(1000), 7)
        parts = [counts_below(rows.take(s), objective, hashes[s], cuts) for s in shards]
        assert (sum(parts) == whole).all()


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_draws_differ_from_each_other_and_from_other_seeds(seed):
    uids = [f"{i:032x}" for i in range(400)]
    kept = []
    for s, draw in [(seed, 0), (seed, 1), (seed, 2), (seed + 1, 0), (seed + 1, 1)]:
        kept.append(set(np.argsort(draw_hashes(uids, s, draw))[:100].tolist()))
    for i, a in enumerate(kept):
        for b in kept[:i]:
            assert 5 <= len(a & b) <= 50  # 25 of 100 by chance


def test_a_draw_depends_on_the_uid_alone():
    uids = [f"{i * 7919:032x}" for i in range(50)]
    hashes = draw_hashes(uids, 3, 1)
    assert [int(draw_hashes([u], 3, 1)[0]) for u in uids] == hashes.tolist()
    assert len(draw_hashes([], 3, 1)) == 0


def test_a_draw_is_fair():
    uids = [f"{i:032x}" for i in range(4000)]
    share = np.mean([draw_hashes(uids, 0, d) < np.uint64(2**62) for d in range(10)])
    assert abs(share - 0.25) < 0.015
