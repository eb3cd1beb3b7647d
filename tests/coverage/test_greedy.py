import math
import random
from collections import Counter
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    OBJECTIVES,
    UNIT,
    Example,
    Problem,
    arrays,
    best_value,
    gain,
    hash64,
    naive_greedy,
    quick,
    random_examples,
    random_instance,
    value,
    zipf_arrays,
)

from mads_ray.coverage.greedy import Budget, gains, lazy_greedy
from mads_ray.coverage.objective import make_objective
from mads_ray.coverage.rows import FeatureRows

seeds = st.integers(0, 2**31 - 1)


def run(problem, examples, seed, budget):
    """Uids and gains in greedy order."""
    rows = FeatureRows(*arrays(problem, examples))
    selection = lazy_greedy(rows, make_objective(*astuple(problem)), budget, seed)
    uids = [u.decode() for u in rows.uids[selection.picks]]
    return list(zip(uids, selection.gains.tolist(), strict=True))


@quick
@given(seeds, st.integers(1, 10), st.integers(1, 4))
def test_within_1_minus_1_over_e_of_brute_force(seed, n, k):
    _, problem, examples = random_instance(seed, n)
    picks = run(problem, examples, seed, Budget(rows=k))
    assert sum(g for _, g in picks) >= (1 - 1 / math.e) * best_value(problem, examples, rows=k)
    assert picks[0][1] == best_value(problem, examples, rows=1)


@pytest.mark.parametrize("name", OBJECTIVES)
@quick
@given(instance=seeds, n=st.integers(1, 40), seed=seeds, k=st.integers(1, 45))
def test_equals_naive_greedy(name, instance, n, seed, k):
    _, problem, examples = random_instance(instance, n, name)
    expected = naive_greedy(problem, examples, seed, rows=k)
    assert run(problem, examples, seed, Budget(rows=k)) == expected


@pytest.mark.parametrize("tree_share", [0.0, 0.5])
def test_equals_naive_greedy_with_many_layers(tree_share):
    problem = Problem("sqrt", 12, 30, 4, (4, 16), tree_share, 150)
    examples = random_examples(random.Random(5), problem, 150)
    picks = run(problem, examples, 3, Budget(rows=60))
    assert picks == naive_greedy(problem, examples, 3, rows=60)
    assert sum(g for _, g in picks) == value(problem, [e for e in examples if e.uid in dict(picks)])


@quick
@given(seeds, st.integers(1, 25), st.integers(0, 60))
def test_token_budget_passes_over_rows_that_do_not_fit(seed, n, tokens):
    _, problem, examples = random_instance(seed, n)
    picks = run(problem, examples, seed, Budget(tokens=tokens))
    cost = {e.uid: e.tokens for e in examples}
    spent = sum(cost[u] for u, _ in picks)
    assert spent <= tokens
    left = set(cost) - {u for u, _ in picks}
    assert all(spent + cost[u] > tokens for u in left)  # nothing more would fit
    assert picks == naive_greedy(problem, examples, seed, tokens=tokens)


@quick
@given(seeds, st.integers(1, 25), st.integers(0, 10), st.integers(0, 40))
def test_both_budgets_hold_together(seed, n, rows, tokens):
    _, problem, examples = random_instance(seed, n)
    picks = run(problem, examples, seed, Budget(rows, tokens))
    assert picks == naive_greedy(problem, examples, seed, rows=rows, tokens=tokens)


def test_a_row_too_long_gives_way_to_the_next_best():
    problem = Problem("union", 1, 6, 2, (1,), 0.0, 3)
    long = Example("0" * 32, 9, ((0, 1),), (0,))
    same = Example("1" * 32, 4, ((2, 3),), (0,))
    less = Example("2" * 32, 4, ((3, 4),), (0,))
    picks = dict(run(problem, [long, same, less], 0, Budget(tokens=8)))
    assert sorted(picks) == [same.uid, less.uid]
    assert sorted(picks.values()) == [UNIT, 2 * UNIT]


@pytest.mark.parametrize(
    "budget", [Budget(), Budget(rows=7), Budget(rows=99), Budget(tokens=10**9)]
)
def test_a_budget_beyond_the_corpus_takes_every_row(budget):
    _, problem, examples = random_instance(11, 7)
    picks = run(problem, examples, 0, budget)
    assert sorted(u for u, _ in picks) == sorted(e.uid for e in examples)
    assert sum(g for _, g in picks) == value(problem, examples)


@pytest.mark.parametrize("budget", [Budget(rows=0), Budget(tokens=0)])
def test_a_budget_of_nothing_takes_nothing(budget):
    _, problem, examples = random_instance(11, 7)
    assert run(problem, examples, 0, budget) == []


def test_no_rows_give_no_picks():
    problem = Problem("sqrt", 1, 4, 2, (2,), 0.5, 5)
    assert run(problem, [], 0, Budget(rows=3)) == []


@quick
@given(seeds, st.integers(2, 30))
def test_the_order_of_rows_does_not_matter(seed, n):
    rng, problem, examples = random_instance(seed, n)
    expected = run(problem, examples, 1, Budget(rows=n // 2 + 1))
    rng.shuffle(examples)
    assert run(problem, examples, 1, Budget(rows=n // 2 + 1)) == expected


@quick
@given(seeds, st.integers(1, 20))
def test_every_prefix_is_the_run_with_that_budget(seed, n):
    _, problem, examples = random_instance(seed, n)
    whole = run(problem, examples, 2, Budget())
    for m in range(n + 1):
        assert run(problem, examples, 2, Budget(rows=m)) == whole[:m]


@quick
@given(seeds, st.integers(1, 20), seeds)
def test_every_pick_is_a_best_one_whatever_the_seed(instance, n, seed):
    _, problem, examples = random_instance(instance, n)
    by_uid = {e.uid: e for e in examples}
    counts = Counter()
    left = dict(by_uid)
    for uid, g in run(problem, examples, seed, Budget()):
        assert g == max(gain(problem, e, counts) for e in left.values())
        assert g == gain(problem, left.pop(uid), counts)
        counts.update(by_uid[uid].features)


def test_the_seed_orders_ties_and_nothing_else():
    problem = Problem("sqrt", 2, 8, 2, (2,), 0.5, 12)
    rng = random.Random(0)
    twins = [Example(f"{rng.getrandbits(128):032x}", 3, ((1, 2), (0, 7)), (1,)) for _ in range(12)]
    runs = {seed: run(problem, twins, seed, Budget()) for seed in range(6)}
    for seed, picks in runs.items():
        by_hash = sorted((e.uid for e in twins), key=lambda u: hash64(u, seed))
        assert [u for u, _ in picks] == by_hash
        assert [g for _, g in picks] == [g for _, g in runs[0]]
    assert len({tuple(u for u, _ in picks) for picks in runs.values()}) == 6


def test_gains_of_a_run_never_rise():
    problem = Problem("log1p", 3, 100, 6, (4, 16), 0.5, 500)
    rows = FeatureRows(*zipf_arrays(problem, 500, 0))
    selection = lazy_greedy(rows, make_objective(*astuple(problem)), Budget(rows=200), 0)
    assert (np.diff(selection.gains) <= 0).all()
    assert len(set(selection.picks.tolist())) == 200


def test_the_last_neuron_of_the_widest_layer_is_a_feature_of_its_own():
    layers, width = 40, 2**16
    problem = Problem("union", layers, width, 1, (2,), 0.0, 4)
    objective = make_objective(*astuple(problem))
    last = np.arange(layers) % 2 == 0  # of the even layers in one row, of the odd in the other
    rows = FeatureRows(
        np.array([f"{i:032x}" for i in range(4)], "S32"),
        np.ones(4, np.int32),
        (np.stack([last, ~last, last, ~last]) * (width - 1)).astype(np.uint16),
        np.zeros((4, 1), np.int32),
    )
    expected = np.arange(layers) * width + last * (width - 1)
    assert np.flatnonzero(objective.counts(rows, np.array([0])))[:-1].tolist() == expected.tolist()
    selection = lazy_greedy(rows, objective, Budget(), 0)
    assert selection.gains.tolist() == [layers * UNIT, layers * UNIT, 0, 0]
    assert sum(selection.picks[:2] % 2) == 1


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_gains_against_any_prices(dtype):
    _, problem, examples = random_instance(4, 9)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    prices = np.arange(len(objective.class_D)).astype(dtype) / dtype(1) * 3
    one_by_one = [
        3 * int((objective.counts(rows, np.array([i])) * np.arange(len(prices))).sum())
        for i in range(9)
    ]
    result = gains(rows, objective, prices.astype(dtype))
    assert result.dtype == dtype
    assert result.tolist() == one_by_one


def test_without_any_tree():
    problem = Problem("sqrt", 2, 5, 2, (), 0.0, 12)
    examples = random_examples(random.Random(2), problem, 12)
    with_idle_tree = replace(problem, level_sizes=(1,))
    idle = [replace(e, path=(0,)) for e in examples]
    expected = run(with_idle_tree, idle, 0, Budget(rows=6))
    assert run(problem, examples, 0, Budget(rows=6)) == expected
