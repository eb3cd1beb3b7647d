"""Lazy greedy under a budget in tokens, and lazy greedy that takes what is good enough."""

import math
from dataclasses import replace
from fractions import Fraction

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
    naive_greedy,
    quick,
    random_instance,
)
from setups import counts_of, setup, uids, zipf

from mads_ray.submodular.greedy import EXACT, SLACK, budgeted_greedy, gains, lazy_greedy
from mads_ray.submodular.problem import Budget, Problem

seeds = st.integers(0, 2**31 - 1)


# --- the better of two ---


@quick
@given(seeds, st.integers(1, 10), st.integers(1, 20), st.integers(0, 3))
def test_the_better_try_is_within_half_of_1_minus_1_over_e(seed, n, tokens, in_already):
    _, spec, examples = random_instance(seed, n + in_already, bonus=True)
    base, rest = examples[:in_already], examples[in_already:]
    rows, objective = setup(spec, rest)
    counts_D = counts_of(spec, base)
    problem = Problem(objective, Budget(tokens=tokens), base_D=counts_D, seed=seed)
    found = budgeted_greedy(rows, problem)
    optimum = best_value(spec, rest, tokens=tokens, base=base)
    assert rows.tokens_N[found.picks].sum() <= tokens
    assert (1 - 1 / math.e) / 2 * optimum <= found.gains.sum() <= optimum
    tries = [
        naive_greedy(spec, rest, seed, tokens=tokens, by_cost=by_cost, base=base)
        for by_cost in (True, False)
    ]
    better = max(tries, key=lambda t: sum(g for _, g in t))  # the first of equals
    assert [uids(rows)[i] for i in found.picks] == [u for u, _ in better]
    assert found.gains.tolist() == [g for _, g in better]
    assert (found.counts_D == counts_D + objective.counts(rows, found.picks)).all()


@quick
@given(seeds, st.integers(1, 20), st.integers(0, 20))
def test_a_budget_in_rows_is_plain_greedy(seed, n, k):
    _, spec, examples = random_instance(seed, n)
    rows, objective = setup(spec, examples)
    found = budgeted_greedy(rows, Problem(objective, Budget(rows=k), seed=seed))
    expected = naive_greedy(spec, examples, seed, rows=k)
    assert [uids(rows)[i] for i in found.picks] == [u for u, _ in expected]


def test_either_try_may_be_the_better_one():
    spec = Spec("union", 1, 20, 2, (1,), 0.0)
    rich = Example("0" * 32, 20, ((0, 1),), (0,), bonus=9 * UNIT)
    cheap = [Example(f"{i:032x}", 1, ((2, 3),), (0,), bonus=UNIT * (i == 1)) for i in (1, 2)]

    def best_of(spec, examples):
        rows, objective = setup(spec, examples)
        return budgeted_greedy(rows, Problem(objective, Budget(tokens=20)))

    # One cheap row leaves no room for the rich one.
    found = best_of(spec, [rich, *cheap])
    assert found.gains.sum() == 11 * UNIT
    # Twenty cheap ones beat a rich one that is worth little more than each of them.
    many = [
        replace(cheap[0], uid=f"{i:032x}", neurons=((i % 18, i % 18 + 1),)) for i in range(1, 30)
    ]
    found = best_of(spec, [replace(rich, bonus=3 * UNIT), *many])
    assert len(found.picks) == 20
    assert 0 not in found.picks


# --- slack ---


def worst_shortfall(rows, objective, selection, cost_N, open_N=None):
    """The most by which a gain per cost that was left exceeded the one picked, as a share."""
    left = np.ones(len(rows), bool) if open_N is None else open_N.copy()
    counts_D, worst = objective.empty_counts(), Fraction(0)
    for i, picked in zip(selection.picks, selection.gains, strict=True):
        gain_N = rows.bonus_N + gains(rows, objective, objective.prices(counts_D))
        assert left[i]
        assert gain_N[i] == picked
        best = max(Fraction(int(gain_N[j]), int(cost_N[j])) for j in np.flatnonzero(left))
        mine = Fraction(int(picked), int(cost_N[i]))
        if best > mine:
            worst = max(worst, best / mine - 1)
        left[i] = False
        counts_D += objective.counts(rows, np.array([i]))
    assert (counts_D == selection.counts_D).all()
    assert selection.gains.sum() == objective.value(counts_D) + rows.bonus_N[selection.picks].sum()
    return worst


@pytest.mark.parametrize("slack", [0, 1, 3, 5, SLACK, 10, EXACT])
@pytest.mark.parametrize("by_cost", [False, True])
def test_every_pick_is_within_the_slack_of_the_best(slack, by_cost):
    spec = Spec("sqrt", 3, 60, 6, (4, 16), 0.5)
    rows, objective = zipf(spec, 250, 0)
    cost_N = rows.tokens_N if by_cost else np.ones(250, int)
    problem = Problem(objective, Budget(rows=120, by_cost=by_cost))
    selection = lazy_greedy(rows, problem, slack=slack)
    worst = worst_shortfall(rows, objective, selection, cost_N)
    assert worst <= (Fraction(1, 2**slack) if slack < EXACT else 0)
    if slack <= 3:
        assert worst > Fraction(1, 2 ** (slack + 3))  # it is used
    assert len(selection.picks) == 120


@quick
@given(seeds, st.integers(1, 30), st.integers(1, 30), st.integers(0, 12), st.booleans())
def test_slack_holds_on_any_instance(seed, n, k, slack, by_cost):
    _, spec, examples = random_instance(seed, n, bonus=True)
    rows, objective = setup(spec, examples)
    cost_N = rows.tokens_N if by_cost else np.ones(n, int)
    selection = lazy_greedy(rows, Problem(objective, Budget(rows=k, by_cost=by_cost)), slack=slack)
    assert len(selection.picks) == min(n, k)
    assert worst_shortfall(rows, objective, selection, cost_N) <= Fraction(1, 2**slack)


@pytest.mark.parametrize("name", OBJECTIVES)
@quick
@given(seed=seeds, n=st.integers(1, 30), k=st.integers(1, 30))
def test_exact_is_naive_greedy(name, seed, n, k):
    _, spec, examples = random_instance(seed, n, name)
    rows, objective = setup(spec, examples)
    selection = lazy_greedy(rows, Problem(objective, Budget(rows=k), seed=seed), slack=EXACT)
    expected = naive_greedy(spec, examples, seed, rows=k)
    assert [uids(rows)[i] for i in selection.picks] == [u for u, _ in expected]


@pytest.mark.parametrize("slack", [1, 4, SLACK])
@pytest.mark.parametrize("by_cost", [False, True])
def test_the_order_of_rows_does_not_matter_with_slack_either(slack, by_cost):
    """Pools come in an order that depends on the spread of shards."""
    rows, objective = zipf(Spec("sqrt", 3, 60, 6, (4, 16), 0.5), 300, 1)
    problem = Problem(objective, Budget(rows=150, by_cost=by_cost), seed=7)
    first = lazy_greedy(rows, problem, slack=slack)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(300)
        other = lazy_greedy(rows.take(order), problem, slack=slack)
        assert order[other.picks].tolist() == first.picks.tolist()
        assert other.gains.tolist() == first.gains.tolist()


def test_slack_costs_little_value():
    rows, objective = zipf(Spec("sqrt", 4, 200, 8, (4, 16), 0.5), 2000, 2)
    exact = lazy_greedy(rows, Problem(objective, Budget(rows=300)))
    near = lazy_greedy(rows, Problem(objective, Budget(rows=300)), slack=SLACK)
    assert near.picks.tolist() != exact.picks.tolist()
    assert near.gains.sum() > 0.9995 * exact.gains.sum()
