from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    UNIT,
    Example,
    Spec,
    best_value,
    naive_greedy,
    quick,
    random_instance,
    value,
)
from setups import counts_of, setup, zipf

from mads_ray.submodular.certificate import PriceHistogram, bin_width, upper_bound
from mads_ray.submodular.greedy import SLACK, gains, lazy_greedy
from mads_ray.submodular.objective import FeatureSpace, make_objective
from mads_ray.submodular.problem import Budget, Problem

seeds = st.integers(0, 2**31 - 1)
BINS = 16_384


def bound_of(rows, objective, counts_D, budget, by_cost, width=None, base_D=None):
    """The bound from the prices at some counts."""
    cost_N = rows.tokens_N.astype(np.int64) if by_cost else np.ones(len(rows), np.int64)
    gain_N = rows.bonus_N + gains(rows, objective, objective.prices(counts_D))
    width = bin_width(objective, counts_D, max(1, budget)) if width is None else width
    histogram = PriceHistogram.of(gain_N, cost_N, width)
    base_D = objective.empty_counts() if base_D is None else base_D
    return upper_bound(objective, counts_D, base_D, histogram, budget)


@quick
@given(seeds, st.integers(1, 9), st.integers(0, 4), st.integers(1, 30), st.booleans())
def test_never_below_the_optimum(seed, n, in_already, budget, by_cost):
    """Around greedy's own counts, beside a base, with bonuses."""
    _, spec, examples = random_instance(seed, n + in_already, bonus=True)
    base, rest = examples[:in_already], examples[in_already:]
    budget = budget if by_cost else min(budget, n)
    kind = {"tokens" if by_cost else "rows": budget}
    rows, objective = setup(spec, rest)
    base_D = counts_of(spec, base)
    found = lazy_greedy(rows, Problem(objective, Budget(**kind), base_D=base_D))
    bound = bound_of(rows, objective, found.counts_D, budget, by_cost, base_D=base_D)
    optimum = best_value(spec, rest, **kind, base=base)
    without_base = value(spec, [replace(e, bonus=0) for e in base])
    assert bound >= without_base + optimum
    assert optimum >= found.gains.sum()


@quick
@given(
    seeds,
    st.integers(1, 9),
    st.integers(0, 4),
    st.integers(0, 30),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 40)),
)
def test_valid_at_any_counts_and_for_any_width(seed, n, in_already, budget, by_cost, log_width):
    rng, spec, examples = random_instance(seed, n + in_already, bonus=True)
    base, rest = examples[:in_already], examples[in_already:]
    rows, objective = setup(spec, rest)
    base_D = counts_of(spec, base)
    counts_D = base_D + counts_of(spec, rng.sample(rest, rng.randint(0, n)))
    width = None if log_width is None else 2**log_width + rng.randint(0, 3)
    bound = bound_of(rows, objective, counts_D, budget, by_cost, width, base_D)
    kind = {"tokens" if by_cost else "rows": budget}
    without_base = value(spec, [replace(e, bonus=0) for e in base])
    assert bound >= without_base + best_value(spec, rest, **kind, base=base)


# --- where it is tight ---


@quick
@given(seeds, st.integers(1, 30), st.booleans())
def test_exact_when_everything_is_chosen(seed, n, by_cost):
    """Up to the rounding of gains to 2^8."""
    _, spec, examples = random_instance(seed, n, bonus=True)
    rows, objective = setup(spec, examples)
    budget = sum(e.tokens for e in examples) if by_cost else n
    bound = bound_of(rows, objective, objective.counts(rows), budget, by_cost)
    f = value(spec, examples)
    assert f <= bound <= f + 255 * n


@quick
@given(seeds, st.integers(0, 30))
def test_exact_for_a_budget_of_nothing(seed, n):
    _, spec, base = random_instance(seed, 12)
    rows, objective = setup(spec, base[:n])
    base_D = counts_of(spec, base)
    bound = bound_of(rows, objective, base_D, 0, False, 2**20, base_D)
    assert bound == value(spec, base)


@quick
@given(seeds, st.integers(1, 30), st.integers(1, 30))
def test_exact_where_gains_never_fall(seed, n, k):
    """Then the best rows are the best set; the bound is off by the rounding of the price."""
    _, spec, examples = random_instance(seed, n, "cap:2000", bonus=True)
    rows, objective = setup(spec, examples)
    k = min(k, n)
    best = sum(sorted(value(spec, [e]) for e in examples)[-k:])
    for width in (2**20, 2**22):
        bound = bound_of(rows, objective, objective.empty_counts(), k, False, width)
        assert best <= bound <= best + width * k + 255 * n


def test_tokens_count_in_the_bound():
    """Two rows of one token and a long one: at a budget of 2 tokens it is out of reach."""
    spec = Spec("union", 1, 9, 1, (1,), 0.0)
    rows = [Example(f"{i:032x}", 1, ((i,),), (0,)) for i in (1, 2)]
    long = Example("3" * 32, 50, ((3,),), (0,), bonus=7 * UNIT)
    all_rows, objective = setup(spec, [*rows, long])
    empty = objective.empty_counts()
    at = {k: bound_of(all_rows, objective, empty, k, True, UNIT // 2**10) for k in (1, 2, 52)}
    # A fraction of the long row may count, but at its price per token: 8 / 50 each.
    assert at[1] / UNIT == pytest.approx(1, abs=0.01)
    assert at[2] / UNIT == pytest.approx(2, abs=0.01)
    assert at[52] / UNIT == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("name", ["sqrt", "log1p"])
@pytest.mark.parametrize("slack", [SLACK, 63])
def test_tight_for_lazy_greedy_on_a_larger_corpus(name, slack):
    rows, objective = zipf(Spec(name, 4, 300, 8, (4, 16, 64), 0.3), 4000, 9)
    for by_cost in (False, True):
        budget = int(0.15 * rows.tokens_N.sum()) if by_cost else 600
        kind = {"tokens" if by_cost else "rows": budget}
        found = lazy_greedy(rows, Problem(objective, Budget(**kind)), slack=slack)
        bound = bound_of(rows, objective, found.counts_D, budget, by_cost)
        assert 0.99 * bound < found.gains.sum() <= bound


def test_loose_for_a_poor_set():
    rows, objective = zipf(Spec("sqrt", 4, 300, 8, (4, 16, 64), 0.3), 4000, 9)
    drawn = objective.counts(rows, np.arange(600))
    greedy = lazy_greedy(rows, Problem(objective, Budget(rows=600)))
    bound = bound_of(rows, objective, drawn, 600, False)
    assert bound >= greedy.gains.sum() > 1.02 * objective.value(drawn)


# --- histograms ---


@quick
@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 3000)), max_size=40),
    st.integers(1, 2**30),
    st.integers(1, 6),
    seeds,
)
def test_histograms_add_over_shards_in_any_split(items, width, parts, seed):
    gain_N = np.array([g for g, _ in items], np.int64)
    cost_N = np.array([c for _, c in items], np.int64)
    whole = PriceHistogram.of(gain_N, cost_N, width)
    expected_cost, expected_gain = [0] * BINS, [0] * BINS
    for g, c in items:
        b = min(g // (c * width), BINS - 1)
        expected_cost[b] += c
        expected_gain[b] += -(-g // 256)
    assert whole.cost_B.tolist() == expected_cost
    assert whole.gain_B.tolist() == expected_gain
    part_N = np.random.default_rng(seed).integers(0, parts, len(items))
    total = PriceHistogram.of(gain_N[:0], cost_N[:0], width)
    for p in range(parts):
        total = total + PriceHistogram.of(gain_N[part_N == p], cost_N[part_N == p], width)
    assert (total.cost_B == whole.cost_B).all()
    assert (total.gain_B == whole.gain_B).all()
    assert total.width == width


def test_histograms_of_other_widths_do_not_add():
    none = np.empty(0, np.int64)
    with pytest.raises(AssertionError):
        PriceHistogram.of(none, none, 3) + PriceHistogram.of(none, none, 4)


def test_sums_over_a_billion_rows_fit():
    thousand = PriceHistogram.of(np.full(1000, 2**40), np.ones(1000, np.int64), 2**35)
    many = PriceHistogram(2**35, thousand.cost_B * 10**6, thousand.gain_B * 10**6)
    assert many.cost_B.sum() == 10**9
    objective = make_objective("sqrt", FeatureSpace(1, 1, 1))
    zero = objective.empty_counts()
    # 2^40 lies on the edge of a bin: at that price nothing is in excess.
    assert upper_bound(objective, zero, zero, many, 10**8) == 10**8 * 2**40


@pytest.mark.parametrize("by_cost", [False, True])
def test_bins_reach_to_four_times_a_selected_row(by_cost):
    spec = Spec("sqrt", 2, 50, 4, (4,), 0.5)
    rows, objective = zipf(spec, 400, 1)
    found = lazy_greedy(rows, Problem(objective, Budget(rows=60)))
    cost = int(rows.tokens_N[found.picks].sum()) if by_cost else 60
    width = bin_width(objective, found.counts_D, cost)
    prices = objective.prices(found.counts_D)
    worth = int(gains(rows, objective, prices)[found.picks].sum()) / cost
    assert width * BINS == pytest.approx(4 * worth, rel=0.02)
    assert bin_width(objective, objective.empty_counts(), 0) == 1


def test_the_reference_finds_the_optimum_at_least_as_good_as_greedy():
    for seed in range(20):
        _, spec, examples = random_instance(seed, 8, bonus=True)
        greedy = sum(g for _, g in naive_greedy(spec, examples, 0, rows=3))
        assert best_value(spec, examples, rows=3) >= greedy
        assert best_value(spec, examples, rows=0) == 0
