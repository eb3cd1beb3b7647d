import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    OBJECTIVES,
    UNIT,
    Example,
    Spec,
    best_value,
    gain,
    hash64,
    naive_greedy,
    quick,
    random_examples,
    random_instance,
    value,
)
from setups import counts_of, setup, uids, zipf

from mads_ray.submodular.greedy import gains, lazy_greedy
from mads_ray.submodular.objective import FeatureSpace, make_objective
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.rows import FeatureRows

seeds = st.integers(0, 2**31 - 1)


def run(spec, examples, seed, budget, **options):
    """Uids and gains in greedy order."""
    rows, objective = setup(spec, examples)
    selection = lazy_greedy(rows, Problem(objective, budget, seed=seed), **options)
    names = uids(rows)
    return [(names[i], g) for i, g in zip(selection.picks, selection.gains.tolist(), strict=True)]


@quick
@given(seeds, st.integers(1, 10), st.integers(1, 4))
def test_within_1_minus_1_over_e_of_brute_force(seed, n, k):
    _, spec, examples = random_instance(seed, n, bonus=True)
    picks = run(spec, examples, seed, Budget(rows=k))
    assert sum(g for _, g in picks) >= (1 - 1 / math.e) * best_value(spec, examples, rows=k)
    assert picks[0][1] == best_value(spec, examples, rows=1)


@pytest.mark.parametrize("name", OBJECTIVES)
@quick
@given(instance=seeds, n=st.integers(1, 40), seed=seeds, k=st.integers(1, 45), bonus=st.booleans())
def test_equals_naive_greedy(name, instance, n, seed, k, bonus):
    _, spec, examples = random_instance(instance, n, name, bonus=bonus)
    expected = naive_greedy(spec, examples, seed, rows=k)
    assert run(spec, examples, seed, Budget(rows=k)) == expected


@pytest.mark.parametrize("tree_share", [0.0, 0.5])
def test_equals_naive_greedy_with_many_layers(tree_share):
    spec = Spec("sqrt", 12, 30, 4, (4, 16), tree_share)
    examples = random_examples(random.Random(5), spec, 150)
    picks = run(spec, examples, 3, Budget(rows=60))
    assert picks == naive_greedy(spec, examples, 3, rows=60)
    assert sum(g for _, g in picks) == value(spec, [e for e in examples if e.uid in dict(picks)])


@quick
@given(seeds, st.integers(2, 25), st.integers(1, 10), st.booleans())
def test_starts_from_what_is_in_already(seed, n, k, by_cost):
    rng, spec, examples = random_instance(seed, n, bonus=True)
    base = examples[: rng.randint(0, n)]
    rest = examples[len(base) :]
    kind = {"tokens" if by_cost else "rows": k}
    counts_D = counts_of(spec, base)
    rows, objective = setup(spec, rest)
    selection = lazy_greedy(rows, Problem(objective, Budget(**kind), base_D=counts_D, seed=seed))
    expected = naive_greedy(spec, rest, seed, **kind, base=base)
    picked = [e for u, _ in expected for e in rest if e.uid == u]
    assert [uids(rows)[i] for i in selection.picks] == [e.uid for e in picked]
    assert selection.gains.tolist() == [g for _, g in expected]
    assert (selection.counts_D == counts_of(spec, base + picked)).all()
    assert (counts_D == counts_of(spec, base)).all()  # not changed in place
    added = value(spec, base + picked) - value(spec, base)
    assert selection.gains.sum() == added


@quick
@given(seeds, st.integers(1, 25), st.integers(0, 60), st.sampled_from([None, True, False]))
def test_token_budget_passes_over_rows_that_do_not_fit(seed, n, tokens, by_cost):
    _, spec, examples = random_instance(seed, n, bonus=True)
    picks = run(spec, examples, seed, Budget(tokens=tokens, by_cost=by_cost))
    cost = {e.uid: e.tokens for e in examples}
    spent = sum(cost[u] for u, _ in picks)
    assert spent <= tokens
    left = set(cost) - {u for u, _ in picks}
    assert all(spent + cost[u] > tokens for u in left)  # nothing more would fit
    assert picks == naive_greedy(spec, examples, seed, tokens=tokens, by_cost=by_cost)


@quick
@given(seeds, st.integers(1, 25), st.integers(0, 10), st.integers(0, 40))
def test_both_budgets_hold_together(seed, n, rows, tokens):
    _, spec, examples = random_instance(seed, n)
    picks = run(spec, examples, seed, Budget(rows, tokens))
    assert picks == naive_greedy(spec, examples, seed, rows=rows, tokens=tokens)


@quick
@given(seeds, st.integers(1, 25), st.integers(1, 10))
def test_by_cost_without_a_budget_in_tokens(seed, n, k):
    _, spec, examples = random_instance(seed, n)
    picks = run(spec, examples, seed, Budget(rows=k, by_cost=True))
    assert picks == naive_greedy(spec, examples, seed, rows=k, by_cost=True)


@quick
@given(seeds, st.integers(1, 25), st.integers(1, 10))
def test_only_open_rows_are_picked(seed, n, k):
    rng, spec, examples = random_instance(seed, n)
    open_N = np.array([rng.random() < 0.6 for _ in examples])
    some = [e for e, is_open in zip(examples, open_N, strict=True) if is_open]
    picks = run(spec, examples, seed, Budget(rows=k), open_N=open_N)
    assert picks == naive_greedy(spec, some, seed, rows=k)


def test_a_row_too_long_gives_way_to_the_next_best():
    spec = Spec("union", 1, 6, 2, (1,), 0.0)
    long = Example("0" * 32, 9, ((0, 1),), (0,))
    same = Example("1" * 32, 4, ((2, 3),), (0,))
    less = Example("2" * 32, 4, ((3, 4),), (0,))
    picks = dict(run(spec, [long, same, less], 0, Budget(tokens=8)))
    assert sorted(picks) == [same.uid, less.uid]
    assert sorted(picks.values()) == [UNIT, 2 * UNIT]


def test_gain_per_token_decides_under_a_budget_in_tokens():
    spec = Spec("union", 1, 9, 2, (1,), 0.0)
    short = Example("0" * 32, 3, ((0, 1),), (0,))
    long = replace(short, uid="1" * 32, tokens=7, neurons=((2, 3),), bonus=UNIT)
    assert [u for u, _ in run(spec, [long, short], 0, Budget(rows=2))] == [long.uid, short.uid]
    assert [u for u, _ in run(spec, [long, short], 0, Budget(tokens=99))] == [
        short.uid,  # 2 / 3 against 3 / 7
        long.uid,
    ]


@pytest.mark.parametrize(
    "budget", [Budget(), Budget(rows=7), Budget(rows=99), Budget(tokens=10**9)]
)
def test_a_budget_beyond_the_corpus_takes_every_row(budget):
    _, spec, examples = random_instance(11, 7, bonus=True)
    picks = run(spec, examples, 0, budget)
    assert sorted(u for u, _ in picks) == sorted(e.uid for e in examples)
    assert sum(g for _, g in picks) == value(spec, examples)


@pytest.mark.parametrize("budget", [Budget(rows=0), Budget(tokens=0)])
def test_a_budget_of_nothing_takes_nothing(budget):
    _, spec, examples = random_instance(11, 7)
    assert run(spec, examples, 0, budget) == []


@pytest.mark.parametrize("budget", [Budget(rows=3), Budget(tokens=3), Budget()])
def test_no_rows_give_no_picks(budget):
    assert run(Spec("sqrt", 1, 4, 2, (2,), 0.5), [], 0, budget) == []


@quick
@given(seeds, st.integers(2, 30), st.booleans())
def test_the_order_of_rows_does_not_matter(seed, n, by_cost):
    rng, spec, examples = random_instance(seed, n, bonus=True)
    budget = Budget(tokens=2 * n) if by_cost else Budget(rows=n // 2 + 1)
    expected = run(spec, examples, 1, budget)
    rng.shuffle(examples)
    assert run(spec, examples, 1, budget) == expected


@quick
@given(seeds, st.integers(1, 20))
def test_every_prefix_is_the_run_with_that_budget(seed, n):
    _, spec, examples = random_instance(seed, n)
    whole = run(spec, examples, 2, Budget())
    for m in range(n + 1):
        assert run(spec, examples, 2, Budget(rows=m)) == whole[:m]


@quick
@given(seeds, st.integers(1, 20), seeds)
def test_every_pick_is_a_best_one_whatever_the_seed(instance, n, seed):
    _, spec, examples = random_instance(instance, n)
    by_uid = {e.uid: e for e in examples}
    counts = Counter()
    left = dict(by_uid)
    for uid, g in run(spec, examples, seed, Budget()):
        assert g == max(gain(spec, e, counts) for e in left.values())
        assert g == gain(spec, left.pop(uid), counts)
        counts.update(by_uid[uid].features)


@pytest.mark.parametrize("identical", [1, 12, 40])
def test_the_seed_orders_ties_and_nothing_else(identical):
    spec = Spec("sqrt", 2, 8, 2, (2,), 0.5)
    rng = random.Random(0)
    names = [f"{rng.getrandbits(128):032x}" for _ in range(identical)]
    twins = [Example(u, 3, ((1, 2), (0, 7)), (1,)) for u in names]
    runs = {seed: run(spec, twins, seed, Budget()) for seed in range(6)}
    for seed, picks in runs.items():
        by_hash = sorted(names, key=lambda u: hash64(u, seed))
        assert [u for u, _ in picks] == by_hash
        assert [g for _, g in picks] == [g for _, g in runs[0]]
    assert len({tuple(u for u, _ in picks) for picks in runs.values()}) == min(6, identical)


@quick
@given(st.lists(st.tuples(*[st.integers(0, 2**64 - 1)] * 2), unique=True, max_size=30), seeds)
def test_tie_rank_is_the_rank_of_the_hash(halves, seed):
    n = len(halves)
    rows = FeatureRows(
        np.array(halves, np.uint64).reshape(n, 2),
        np.ones(n, np.int32),
        np.zeros((n, 1), np.uint16),
        np.zeros((n, 0), np.int32),
    )
    names = uids(rows)
    order = sorted(names, key=lambda u: (hash64(u, seed), u))
    assert [order.index(u) for u in names] == rows.tie_rank(seed).tolist()


def test_gains_of_a_run_never_rise():
    spec = Spec("log1p", 3, 100, 6, (4, 16), 0.5)
    rows, objective = zipf(spec, 500, 0)
    selection = lazy_greedy(rows, Problem(objective, Budget(rows=200)))
    assert (np.diff(selection.gains) <= 0).all()
    assert len(set(selection.picks.tolist())) == 200


def test_the_last_neuron_of_the_widest_layer_is_a_feature_of_its_own():
    layers, width = 40, 2**16
    objective = make_objective("union", FeatureSpace(layers, width, 1, (2,)))
    last = np.arange(layers) % 2 == 0  # of the even layers in one row, of the odd in the other
    rows = FeatureRows(
        np.arange(8, dtype=np.uint64).reshape(4, 2),
        np.ones(4, np.int32),
        (np.stack([last, ~last, last, ~last]) * (width - 1)).astype(np.uint16),
        np.zeros((4, 1), np.int32),
    )
    expected = np.arange(layers) * width + last * (width - 1)
    assert np.flatnonzero(objective.counts(rows, np.array([0])))[:-1].tolist() == expected.tolist()
    selection = lazy_greedy(rows, Problem(objective, Budget()))
    assert selection.gains.tolist() == [layers * UNIT, layers * UNIT, 0, 0]
    assert sum(selection.picks[:2] % 2) == 1


def test_gains_against_any_prices():
    _, spec, examples = random_instance(4, 9)
    rows, objective = setup(spec, examples)
    prices = np.arange(len(objective.weight_D)) * 3
    by_hand = [int((counts_of(spec, [e]) * prices).sum()) for e in examples]
    assert gains(rows, objective, prices).tolist() == by_hand


def test_without_any_tree():
    spec = Spec("sqrt", 2, 5, 2, (), 0.0)
    examples = random_examples(random.Random(2), spec, 12)
    with_idle_tree = replace(spec, level_sizes=(1,))
    idle = [replace(e, path=(0,)) for e in examples]
    expected = run(with_idle_tree, idle, 0, Budget(rows=6))
    assert run(spec, examples, 0, Budget(rows=6)) == expected


@pytest.mark.parametrize("near", [2**16, 2**17, 2**24, 10**8])
def test_gains_at_counts_far_above_2_to_16(near):
    """What is in already may be a hundred million rows."""
    rng, spec, examples = random_instance(5, 40, "sqrt")
    rows, objective = setup(spec, examples)
    counts_D = np.array([near + rng.randint(-20, 5) for _ in objective.weight_D], np.int32)
    selection = lazy_greedy(rows, Problem(objective, Budget(), base_D=counts_D))
    now = counts_D.copy()
    for i, g in zip(selection.picks, selection.gains, strict=True):
        after = now + objective.counts(rows, np.array([i]))
        assert g == objective.value(after) - objective.value(now)
        now = after
    assert (selection.counts_D == now).all()
    assert (selection.gains > 0).all()
