import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import Spec, hash64, quick, random_instance
from setups import counts_of, setup, zipf

from mads_ray.hashing import TIES, hash_words, random_set
from mads_ray.pipeline.select.random_sets import add_counts_below


def counts_below(rows, objective, index, hashes, cuts):
    out = np.zeros((len(cuts), len(objective.weight_D)), np.int32)
    add_counts_below(rows, objective, index, hashes, cuts, out)
    return np.cumsum(out, axis=0, dtype=np.int32)


@quick
@given(st.integers(0, 2**31 - 1), st.integers(1, 20), st.integers(0, 5))
def test_counts_equal_plain_sets(seed, n, draw):
    rng, spec, examples = random_instance(seed, n)
    rows, objective = setup(spec, examples)
    index = np.array(rng.sample(range(n), rng.randint(0, n)), np.int64)
    some = [examples[i] for i in index]
    hashes = {e.uid: hash64(e.uid, seed, draw + 1) for e in some}
    at = rng.sample(sorted(hashes.values()), min(len(some), 3))  # cuts at hashes hold their row
    cuts = sorted([*at, 0, rng.getrandbits(64), 2**64 - 1])
    got = counts_below(
        rows,
        objective,
        index,
        np.array([hashes[e.uid] for e in some], np.uint64),
        np.array(cuts, np.uint64),
    )
    assert got.dtype == np.int32
    for b, cut in enumerate(cuts):
        inside = {e for e in some if hashes[e.uid] <= cut}
        assert got[b].tolist() == counts_of(spec, inside).tolist()


def test_equal_hashes_and_equal_cuts():
    _, spec, examples = random_instance(3, 6)
    rows, objective = setup(spec, examples)
    hashes = np.array([7, 7, 7, 9, 9, 2], np.uint64)
    cuts = np.array([1, 7, 7, 8, 9], np.uint64)
    got = counts_below(rows, objective, np.arange(6), hashes, cuts)
    expected = [[], [0, 1, 2, 5], [0, 1, 2, 5], [0, 1, 2, 5], range(6)]
    for b, inside in enumerate(expected):
        assert (got[b] == counts_of(spec, [examples[i] for i in inside])).all()


def test_no_rows_and_no_cuts():
    _, spec, examples = random_instance(3, 6)
    rows, objective = setup(spec, examples)
    none, no_hash = np.empty(0, np.int64), np.empty(0, np.uint64)
    assert not counts_below(rows, objective, none, no_hash, np.array([5], np.uint64)).any()
    assert counts_below(rows, objective, none, no_hash, no_hash).shape == (
        0,
        len(objective.weight_D),
    )


def test_counts_of_shards_add_up_and_cuts_hold_the_wanted_sizes():
    rows, objective = zipf(Spec("sqrt", 2, 60, 4, (3, 9), 0.5), 1000, 5)
    sizes = np.array([1, 2, 17, 150, 999, 1000])
    for draw in range(3):
        hashes = hash_words(*rows.uids_N2.T, 8, random_set(draw))
        cuts = np.sort(hashes)[sizes - 1]
        whole = counts_below(rows, objective, np.arange(1000), hashes, cuts)
        assert (whole[:, : objective.neurons].sum(1) == sizes * 8).all()
        assert (whole[:, objective.neurons :].sum(1) == sizes * 2).all()
        shards = np.array_split(np.random.default_rng(draw).permutation(1000), 7)
        parts = [counts_below(rows, objective, s, hashes[s], cuts) for s in shards]
        assert (sum(parts) == whole).all()


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_draws_differ_from_each_other_from_ties_and_from_other_seeds(seed):
    words = np.zeros(400, np.uint64), np.arange(400, dtype=np.uint64)
    kept = []
    for s, stream in [(seed, TIES), (seed, random_set(0)), (seed, random_set(1)), (seed + 1, TIES)]:
        kept.append(set(np.argsort(hash_words(*words, s, stream))[:100].tolist()))
    for i, a in enumerate(kept):
        for b in kept[:i]:
            assert 5 <= len(a & b) <= 50  # 25 of 100 by chance


def test_a_draw_depends_on_the_uid_alone_and_is_fair():
    high, low = np.arange(4000, dtype=np.uint64) * np.uint64(7919), np.ones(4000, np.uint64)
    hashes = hash_words(high, low, 3, random_set(0))
    for i in range(0, 4000, 400):
        assert hash_words(high[i : i + 1], low[i : i + 1], 3, random_set(0)) == hashes[i]
        assert hashes[i] == hash64(f"{int(high[i]):016x}{1:016x}", 3, random_set(0))
    share = np.mean([hash_words(high, low, 0, d) < np.uint64(2**62) for d in range(1, 11)])
    assert abs(share - 0.25) < 0.015
