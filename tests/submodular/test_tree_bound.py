from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import UNIT, Spec, best_value, quick, random_instance, value
from setups import counts_of, nested, objective_of, setup, zipf

from mads_ray.submodular import tree_bound as module
from mads_ray.submodular.certificate import PriceHistogram, bin_width, upper_bound
from mads_ray.submodular.greedy import gains, lazy_greedy
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.tree_bound import LeafHistogram, Scale, bound_prices, tree_bound

seeds = st.integers(0, 2**31 - 1)
GRAIN = 2**16
FINE = Scale(0, 2**20, GRAIN)
# What rounding adds to a row at most: up to a bin's width, to 2^8, and to 1/256 of a width.
ROUNDED = 2 * GRAIN + 512


def histogram_of(rows, objective, counts_D, by_cost, scale):
    cost_N = rows.tokens_N.astype(np.int64) if by_cost else np.ones(len(rows), np.int64)
    gain_N = rows.bonus_N + gains(rows, objective, bound_prices(objective, counts_D))
    return LeafHistogram.of(gain_N, cost_N, rows.paths_NP, scale)


def bound_of(rows, objective, counts_D, budget, by_cost=False, scale=FINE, base_D=None):
    """The bound from the prices at some counts."""
    base_D = objective.empty_counts() if base_D is None else base_D
    histogram = histogram_of(rows, objective, counts_D, by_cost, scale)
    return tree_bound(objective, counts_D, base_D, histogram, budget, by_cost)


def tree_of(spec, n, seed, share=2.0):
    """Many rows in a tree of heavy nodes."""
    rows, _ = zipf(spec, n, seed)
    leaf_N = rows.paths_NP[:, -1] - sum(spec.level_sizes[:-1])
    sizes = np.array(spec.level_sizes)
    columns = np.cumsum(sizes) - sizes + leaf_N[:, None] * sizes // sizes[-1]
    objective = objective_of(replace(spec, tree_share=share))
    return replace(rows, paths_NP=columns.astype(np.int32)), objective


def beside_a_base(seed, n, in_already):
    """Random numbers, a spec, examples that are in from the start, and n others."""
    rng, spec, examples = random_instance(seed, n + in_already, bonus=True)
    examples = nested(spec, examples)
    return rng, spec, examples[:in_already], examples[in_already:]


scales = st.builds(
    lambda price, bins, grains: Scale(price, bins, grains * GRAIN),
    st.one_of(st.just(0), st.integers(0, 3 * UNIT)),
    st.one_of(st.integers(1, 30), st.just(2**20)),
    st.integers(1, 4000),
)


# --- valid ---


@quick
@given(seeds, st.integers(1, 9), st.integers(0, 4), st.integers(0, 30), st.booleans(), scales)
def test_never_below_the_optimum(seed, n, in_already, budget, by_cost, scale):
    """At any counts, prices of the budget and bins; beside a base, with bonuses."""
    rng, spec, base, rest = beside_a_base(seed, n, in_already)
    rows, objective = setup(spec, rest)
    base_D = counts_of(spec, base)
    counts_D = base_D + counts_of(spec, rng.sample(rest, rng.randint(0, n)))
    bound = bound_of(rows, objective, counts_D, budget, by_cost, scale, base_D)
    kind = {"tokens" if by_cost else "rows": budget}
    without_base = value(spec, [replace(e, bonus=0) for e in base])
    assert bound >= without_base + best_value(spec, rest, **kind, base=base)


@quick
@given(seeds, st.integers(1, 30), st.integers(0, 4), st.integers(0, 40), st.booleans())
def test_never_above_the_bound_by_prices_of_all_features(seed, n, in_already, budget, by_cost):
    """Which is written out here, at the same price of the budget."""
    rng, spec, base, rest = beside_a_base(seed, n, in_already)
    rows, objective = setup(spec, rest)
    base_D = counts_of(spec, base)
    counts_D = base_D + counts_of(spec, rng.sample(rest, rng.randint(0, n)))
    prices_D = objective.prices(counts_D)
    gain_N = rows.bonus_N + gains(rows, objective, prices_D)
    by_prices = objective.value(counts_D) - int((prices_D * (counts_D - base_D)).sum())
    price = rng.randrange(2 * UNIT) if by_cost else 0
    if by_cost:
        by_prices += price * budget + int(np.maximum(gain_N - price * rows.tokens_N, 0).sum())
    else:
        by_prices += int(np.sort(gain_N)[::-1][:budget].sum())
    scale = replace(FINE, price=price)
    bound = bound_of(rows, objective, counts_D, budget, by_cost, scale, base_D)
    assert bound <= by_prices + n * ROUNDED


@pytest.mark.parametrize(("by_cost", "before"), [(False, 0.92), (True, 0.992)])
def test_certifies_more_than_prices_where_nodes_weigh_much(by_cost, before):
    rows, objective = tree_of(Spec("sqrt", 4, 300, 8, (4, 16, 64, 256), 0.3), 4000, 9)
    budget = int(0.03 * rows.tokens_N.sum()) if by_cost else 120
    kind = {"tokens" if by_cost else "rows": budget}
    found = lazy_greedy(rows, Problem(objective, Budget(**kind)))
    f, empty = found.gains.sum(), objective.empty_counts()
    cost_N = rows.tokens_N.astype(np.int64) if by_cost else np.ones(len(rows), np.int64)
    gain_N = gains(rows, objective, objective.prices(found.counts_D))
    histogram = PriceHistogram.of(gain_N, cost_N, bin_width(objective, found.counts_D, budget))
    assert f < before * upper_bound(objective, found.counts_D, empty, histogram, budget)
    price = int(found.gains[-5:].sum()) // int(cost_N[found.picks[-5:]].sum())
    scale = Scale.of(objective, found.counts_D, len(found.picks), price)
    bound = bound_of(rows, objective, found.counts_D, budget, by_cost, scale)
    assert (before + 0.005 if by_cost else 0.96) * bound < f <= bound


# --- where it is exact ---


@quick
@given(seeds, st.integers(1, 9), st.integers(0, 4), st.integers(0, 10))
def test_the_optimum_itself_where_neurons_weigh_nothing(seed, n, in_already, budget):
    _, spec, examples = random_instance(seed, n + in_already, bonus=True)
    examples = nested(spec, examples)
    base, rest = examples[:in_already], examples[in_already:]
    rows, objective = setup(spec, rest)
    weight_D = objective.weight_D.copy()
    weight_D[: objective.neurons] = 0
    objective = replace(objective, weight_D=weight_D)
    base_D = counts_of(spec, base)
    bound = bound_of(rows, objective, base_D, budget, base_D=base_D)
    optimum = max(
        objective.value(base_D + objective.counts(rows, np.array(picks, np.int64)))
        + int(rows.bonus_N[list(picks)].sum())
        for picks in combinations(range(n), min(n, budget))
    )
    assert optimum <= bound <= optimum + n * ROUNDED


@quick
@given(seeds, st.integers(1, 30), st.booleans())
def test_exact_when_everything_is_chosen(seed, n, by_cost):
    _, spec, examples = random_instance(seed, n, bonus=True)
    examples = nested(spec, examples)
    rows, objective = setup(spec, examples)
    budget = sum(e.tokens for e in examples) if by_cost else n
    bound = bound_of(rows, objective, objective.counts(rows), budget, by_cost)
    f = value(spec, examples)
    assert f <= bound <= f + n * ROUNDED


@quick
@given(seeds, st.integers(1, 12))
def test_without_a_tree(seed, n):
    _, spec, examples = random_instance(seed, n)
    spec = replace(spec, level_sizes=())
    examples = [replace(e, path=()) for e in examples]
    rows, objective = setup(spec, examples)
    bound = bound_of(rows, objective, objective.empty_counts(), 1)
    best = best_value(spec, examples, rows=1)
    assert best <= bound <= best + n * ROUNDED


@pytest.mark.parametrize("name", ["sqrt", "log1p", "union", "cap:700"])
@pytest.mark.parametrize("base", [0, 1, 100, 70_000])
def test_one_leaf_of_many_rows(name, base, monkeypatch):
    """The curve between its points is never below itself, and hardly above."""
    monkeypatch.setattr(module, "_MANY", 10**9)  # else it has a price
    n = 3000
    rows = FeatureRows.of(np.zeros((n, 1), np.uint16), paths_NP=np.zeros((n, 1), np.int32))
    objective = objective_of(Spec(name, 1, 2, 1, (1,), 5.0))
    base_D = np.array([0, 0, base], np.int32)
    weight_D = objective.weight_D.copy()
    weight_D[:2] = 0
    objective = replace(objective, weight_D=weight_D)
    histogram = histogram_of(rows, objective, base_D, False, FINE)
    for budget in (*range(120), 699, 701, 2999, 3000, 4000):
        f = objective.value(base_D + np.array([0, 0, min(n, budget)], np.int32))
        bound = tree_bound(objective, base_D, base_D, histogram, budget, False)
        assert f <= bound
        assert bound - f <= 2e-4 * (f - objective.value(base_D)) + 1


def test_nodes_of_many_rows_have_prices():
    rows, objective = tree_of(Spec("sqrt", 2, 50, 4, (1, 4, 16), 0.5), 900, 1)
    counts_D = objective.counts(rows, np.arange(200))
    prices_D = bound_prices(objective, counts_D)
    many_D = counts_D >= 32
    many_D[: objective.neurons] = True
    assert 0 < many_D[objective.neurons :].sum() < 21
    assert (prices_D[many_D] == objective.prices(counts_D)[many_D]).all()
    assert (prices_D[~many_D] == 0).all()


def test_sums_of_very_many_rows_stay_whole():
    rows, objective = tree_of(Spec("sqrt", 2, 50, 4, (2, 4), 0.3), 400, 1)
    counts_D = objective.counts(rows, np.arange(60))
    few = histogram_of(rows, objective, counts_D, False, Scale(0, 64, 2**20))
    many = replace(few, rows_B=few.rows_B * 10**6, rest_B=few.rest_B * 10**6)
    empty = objective.empty_counts()
    best = int(gains(rows, objective, bound_prices(objective, counts_D)).max())
    bound = tree_bound(objective, counts_D, empty, many, 10**8, False)
    assert 0 < bound < objective.value(counts_D) + 10**8 * (best + objective.value(counts_D))
    assert bound > tree_bound(objective, counts_D, empty, many, 10**7, False)


# --- histograms ---


@quick
@given(seeds, st.integers(1, 40), st.integers(1, 6), scales)
def test_histograms_add_over_shards_in_any_split(seed, n, parts, scale):
    _, spec, examples = random_instance(seed, n, bonus=True)
    rows, objective = setup(spec, nested(spec, examples))
    counts_D = objective.counts(rows)
    whole = histogram_of(rows, objective, counts_D, True, scale)
    part_N = np.random.default_rng(seed).integers(0, parts, n)
    some = [
        histogram_of(rows.take(np.flatnonzero(part_N == p)), objective, counts_D, True, scale)
        for p in range(parts)
    ]
    half = parts // 2
    pairs = [LeafHistogram.merge(some[:half]), LeafHistogram.merge(some[half:])] if half else some
    for total in (LeafHistogram.merge(some), LeafHistogram.merge(pairs[::-1])):
        for name in ("paths_LP", "leaf_B", "bin_B", "rows_B", "rest_B"):
            assert (getattr(total, name) == getattr(whole, name)).all()
            assert getattr(total, name).dtype == getattr(whole, name).dtype
    assert whole.rows_B.sum() == n


def test_a_leaf_in_two_nodes_of_a_level_is_refused():
    gain_N, cost_N = np.array([1, 2]), np.array([1, 1])
    paths_NP = np.array([[0, 2], [1, 2]], np.int32)
    with pytest.raises(ValueError, match="do not nest"):
        LeafHistogram.of(gain_N, cost_N, paths_NP, FINE)
    parts = [LeafHistogram.of(gain_N[:1], cost_N[:1], p[None], FINE) for p in paths_NP]
    with pytest.raises(ValueError, match="do not nest"):
        LeafHistogram.merge(parts)


def test_bins_lie_around_the_price_of_the_budget():
    rows, objective = tree_of(Spec("sqrt", 2, 50, 4, (4,), 0.5), 400, 1)
    found = lazy_greedy(rows, Problem(objective, Budget(rows=60)))
    scale = Scale.of(objective, found.counts_D, 60, 7)
    worth = int(gains(rows, objective, objective.prices(found.counts_D))[found.picks].sum()) / 60
    assert scale.price == 7
    assert scale.width * scale.below == pytest.approx(4 * worth, rel=0.05)
    assert scale.width * scale.bins == pytest.approx(5 * worth, rel=0.05)
    assert Scale.of(objective, found.counts_D, 10_000, 0).bins == 256
    assert Scale.of(objective, objective.empty_counts(), 0, 0).width == GRAIN
