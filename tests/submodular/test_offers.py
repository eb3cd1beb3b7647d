"""What one pass over the shards tells: rows to give up, rows wanted, and all gains."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import count, dense, gain, hash64, quick, random_instance
from setups import setup

from mads_ray.submodular.certificate import PriceHistogram
from mads_ray.submodular.exchange import Offers, appraise
from mads_ray.submodular.shards import LoadedShard, Scratch

seeds = st.integers(0, 2**31 - 1)
few_values = st.lists(
    st.tuples(st.integers(-2, 2), st.integers(0, 1), st.integers(0, 3)), max_size=60
)


def offers_of(items):
    """From (key, tie, shard); the row is the place in the list, so that no two are equal."""
    places = [(shard, row) for row, (_, _, shard) in enumerate(items)]
    return Offers(
        np.array([key for key, _, _ in items], np.float64),
        np.array([tie for _, tie, _ in items], np.uint64),
        np.array(places, np.int32).reshape(len(items), 2),
        np.arange(len(items), dtype=np.int64),
    )


def listed(offers):
    columns = (offers.key_N, offers.tie_N, *offers.place_N2.T, offers.cost_N)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def by_sorting(offers, most):
    return sorted(listed(offers), key=lambda o: (-o[0], *o[1:4]))[:most]


@quick
@given(few_values, st.integers(1, 70))
def test_the_best_are_the_first_by_key_tie_and_place(items, most):
    offers = offers_of(items)
    assert listed(offers.best(most)) == by_sorting(offers, most)


@pytest.mark.parametrize("most", [1, 2, 7, 100])
@pytest.mark.parametrize("values", [1, 2, 50])
def test_many_equal_keys(most, values):
    """Where a feature is covered, gains of whole shards are 0."""
    rng = np.random.default_rng(0)
    n = 5000
    offers = Offers(
        rng.integers(0, values, n) / 7,
        rng.integers(0, 3, n).astype(np.uint64),
        rng.permutation(2 * n).reshape(n, 2).astype(np.int32),
        np.ones(n, np.int64),
    )
    assert listed(offers.best(most)) == by_sorting(offers, most)


def test_none_are_wanted_or_offered():
    offers = offers_of([(1, 0, 0), (2, 0, 0), (2, 0, 1)])
    assert listed(offers.best(0)) == []
    assert listed(offers_of([]).best(5)) == listed(offers_of([]).best(0)) == []
    assert listed(Offers.merge([offers_of([]), offers_of([])], 3)) == []


@quick
@given(few_values, st.integers(1, 70), st.integers(1, 6), seeds, st.booleans())
def test_merging_depends_on_no_split_and_no_order(items, most, parts, seed, cut_first):
    offers = offers_of(items)
    part_N = np.random.default_rng(seed).integers(0, parts, len(items))
    split = []
    for p in np.random.default_rng(seed).permutation(parts):
        mine = np.random.default_rng(seed).permutation(np.flatnonzero(part_N == p))
        columns = (offers.key_N, offers.tie_N, offers.place_N2, offers.cost_N)
        part = Offers(*(c[mine] for c in columns))
        split.append(part.best(most) if cut_first else part)
    assert listed(Offers.merge(split, most)) == by_sorting(offers, most)


# --- appraisals ---


def instance(seed, n):
    rng, spec, examples = random_instance(seed, n, bonus=True)
    inside = [rng.random() < 0.4 for _ in examples]
    is_open = [a or rng.random() < 0.8 for a in inside]
    # Counts hold more than this block.
    others = rng.sample(examples, rng.randint(0, n)) * 2
    counts = count(others + [e for e, a in zip(examples, inside, strict=True) if a])
    return rng, spec, examples, inside, is_open, counts


def appraise_here(spec, examples, inside, is_open, counts, by_cost, most, width, shard=3):
    rows, objective = setup(spec, examples)
    scratch = Scratch(None)
    held = LoadedShard(
        shard,
        rows.uids_N2,
        rows.tokens_N,
        rows.paths_NP,
        rows.bonus_N,
        rows.groups_NT,
        rows.tie_rank(5),
        np.array([hash64(e.uid, 5) for e in examples], np.uint64),
        scratch,
        scratch.append(rows.neurons_NA),
        rows.neurons_NA.shape[1],
    )
    held.depth_N[:] = np.where(is_open, np.where(inside, 0, -1), -2)
    counts_D = np.array(dense(spec, counts), np.int32)
    return appraise(held, 0, objective, counts_D, by_cost, most, width)


@quick
@given(seeds, st.integers(1, 30), st.booleans(), st.integers(1, 40))
def test_gains_and_losses_equal_brute_force(seed, n, by_cost, most):
    _, spec, examples, inside, is_open, counts = instance(seed, n)
    width = 2**22
    seen = appraise_here(spec, examples, inside, is_open, counts, by_cost, most, width)
    weakest, wanted, gains, costs = [], [], [], []
    for row, e in enumerate(examples):
        cost, tie = e.tokens if by_cost else 1, hash64(e.uid, 5)
        if not is_open[row]:
            continue
        gains.append(gain(spec, e, counts))
        costs.append(cost)
        if inside[row]:
            without = counts - Counter(e.features)
            loss = gain(spec, e, without)
            weakest.append((-loss / cost, tie, 3, row, cost))
        else:
            wanted.append((gains[-1] / cost, tie, 3, row, cost))
    for found, expected in [(seen.weakest, weakest), (seen.wanted, wanted)]:
        assert listed(found) == sorted(expected, key=lambda o: (-o[0], *o[1:4]))[:most]
    histogram = PriceHistogram.of(np.array(gains, np.int64), np.array(costs, np.int64), width)
    assert seen.histogram.width == width
    assert (seen.histogram.cost_B == histogram.cost_B).all()
    assert (seen.histogram.gain_B == histogram.gain_B).all()


@quick
@given(seeds, st.integers(1, 12))
def test_the_loss_is_what_f_falls_by_and_the_gain_what_it_rises_by(seed, n):
    _, spec, examples, inside, is_open, counts = instance(seed, n)
    seen = appraise_here(spec, examples, inside, is_open, counts, False, n, 1)
    _, objective = setup(spec, examples)

    def f(counts):
        return objective.value(np.array(dense(spec, counts), np.int32))

    for offers, sign in [(seen.weakest, -1), (seen.wanted, 1)]:
        for key, _, _, row, _ in listed(offers):
            other = Counter(counts)
            for feature in examples[row].features:
                other[feature] += sign
            assert key == f(other) - f(counts) + sign * examples[row].bonus


def test_nothing_open():
    _, spec, examples, inside, _, counts = instance(4, 12)
    seen = appraise_here(spec, examples, inside, [False] * 12, counts, True, 5, 1)
    assert listed(seen.weakest) == listed(seen.wanted) == []
    assert not seen.histogram.cost_B.any()
    assert not seen.histogram.gain_B.any()
