"""The whole choice over shards, with workers as plain objects: see local_workers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from local_workers import index_of, local_workers, small_and_local
from reference import Spec, hash64
from setups import uids, zipf

from mads_ray.config import RunConfig, SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.pipeline.select import rank
from mads_ray.pipeline.select import stage as select
from mads_ray.pipeline.select.exchange import Exchange
from mads_ray.pipeline.select.ground_set import Settings
from mads_ray.pipeline.select.random_sets import hash_thresholds, random_set_counts
from mads_ray.submodular.greedy import budgeted_greedy, gains, lazy_greedy
from mads_ray.submodular.problem import Bounds, Budget, Problem
from mads_ray.submodular.rows import FeatureRows

N, SHARDS, K = 3000, 12, 450
SPEC = Spec("sqrt", 3, 200, 6, (4, 16), 0.3)


@pytest.fixture(autouse=True)
def _small_and_local(monkeypatch):
    small_and_local(monkeypatch)


@pytest.fixture(scope="module")
def corpus():
    rows, objective = zipf(SPEC, N, 3)
    rng = np.random.default_rng(0)
    bonus = rng.integers(0, 2**27, N)
    # Groups of unequal sizes that shards hold unequally.
    clusters = np.sort(rng.zipf(1.6, N).clip(1, 5) - 1)
    sources = 5 + rng.integers(0, 3, N)
    groups = np.stack([clusters, sources], axis=1).astype(np.int32)
    return replace(rows, bonus_N=bonus, groups_NT=groups), objective


def choose(corpus, budget, bounds=None, spread=3, base_D=None, seed=1, taken=None, **options):
    rows, objective = corpus
    bounds = Bounds.none() if bounds is None else bounds
    if not len(bounds):
        rows = replace(rows, groups_NT=rows.groups_NT[:, :0])
    workers = local_workers(rows, objective, SHARDS, spread, seed)
    if taken is not None:
        workers.sum("exclude", np.concatenate(workers.ask("places"))[taken])
    problem = Problem(objective, budget, bounds, base_D, seed)
    config = SelectionConfig(**{"max_rounds": 20, "buffer_rows": 200} | options)
    return Exchange(workers, 0, problem, config, problem.start()).run()


def chosen_rows(chosen):
    """Row numbers that are selected in the workers."""
    shards = [s for a in chosen.workers.actors for s in a.worker._shards.values()]
    places = [s.places()[s.selected(0)] for s in shards]
    return np.sort(index_of(np.concatenate(places), N, SHARDS))


def check_sums(corpus, chosen):
    """The driver's sums equal a recomputation from the ids."""
    rows, objective = corpus
    index, now = chosen_rows(chosen), chosen.now
    assert (now.counts_D - chosen.problem.base_D == objective.counts(rows, index)).all()
    assert (now.rows, now.tokens) == (len(index), rows.tokens_N[index].sum())
    assert now.bonus == rows.bonus_N[index].sum()
    assert now.f == objective.value(now.counts_D) + now.bonus
    bounds = chosen.problem.bounds
    if len(bounds):
        assert (now.used_G == bounds.used(rows.groups_NT[index])).all()
        assert bounds.met(now.used_G)
    return index


BUDGETS = [Budget(rows=K), Budget(tokens=K * 100)]


@pytest.mark.parametrize("budget", BUDGETS)
def test_close_to_lazy_greedy_and_within_the_bound(corpus, budget):
    rows, objective = corpus
    chosen = choose(corpus, budget)
    check_sums(corpus, chosen)
    greedy = int(budgeted_greedy(rows, Problem(objective, budget)).gains.sum())
    assert chosen.bound >= max(greedy, chosen.now.f)
    lift = (chosen.now.f - chosen.started) / (greedy - chosen.started)
    assert lift > 0.95
    assert 0.85 < chosen.lift_at_least() <= lift
    if budget.rows is not None:
        assert chosen.now.rows == budget.rows
    else:
        assert 0.99 * budget.tokens < chosen.now.tokens <= budget.tokens


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_spread_of_shards_over_workers_does_not_matter(corpus, budget):
    results = []
    for spread in (1, 2, 5, SHARDS):
        chosen = choose(corpus, budget, spread=spread)
        ranked = rank.rank(chosen, N)
        results.append((chosen.now.f, chosen.rounds, chosen.bound, ranked.places_K2.tolist()))
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_ranking_is_a_greedy_order_of_the_chosen(corpus, budget):
    rows, objective = corpus
    base_D = objective.counts(rows, np.arange(0, N, 50))
    chosen = choose(corpus, budget, base_D=base_D)
    index = check_sums(corpus, chosen)
    ranked = rank.rank(chosen, N)
    order = index_of(ranked.places_K2, N, SHARDS)
    assert np.sort(order).tolist() == index.tolist()
    assert (ranked.tokens_K == rows.tokens_N[order]).all()
    assert ranked.gains_K.sum() == chosen.now.f - objective.value(base_D)
    counts_D = base_D.copy()
    for i, g in zip(order, ranked.gains_K, strict=True):
        prices = objective.prices(counts_D)
        assert rows.bonus_N[i] + gains(rows.take(np.array([i])), objective, prices)[0] == g
        counts_D += objective.counts(rows, np.array([i]))
    assert ranked.marks_M[-1] == len(order)
    for mark, counts in zip(ranked.marks_M, ranked.counts_MD, strict=True):
        assert (counts == base_D + objective.counts(rows, order[:mark])).all()
    # Every prefix is nearly as good as lazy greedy's of its size.
    if not budget.by_cost:
        greedy = np.cumsum(lazy_greedy(rows, Problem(objective, budget, base_D=base_D)).gains)
        assert (np.cumsum(ranked.gains_K)[4:] > 0.97 * greedy[4:]).all()


CAPS = Bounds(np.zeros(8, np.int64), np.array([120] * 5 + [160] * 3), np.repeat([0, 1], [5, 3]))
FLOORS = Bounds(
    np.array([0, 40, 60, 30, 90, 20, 20, 100]), np.full(8, 2**62), np.repeat([0, 1], [5, 3])
)
BOTH = replace(FLOORS, high_G=np.array([200, 90, 70, 60, 90, 170, 170, 160]))


@pytest.mark.parametrize("bounds", [CAPS, FLOORS, BOTH])
def test_bounds_hold_and_do_not_depend_on_the_workers(corpus, bounds):
    chosen = choose(corpus, Budget(rows=K), bounds)
    index = check_sums(corpus, chosen)
    assert len(index) == K
    assert chosen.now.f > 1.01 * chosen.started
    assert chosen_rows(choose(corpus, Budget(rows=K), bounds, spread=5)).tolist() == index.tolist()
    free = choose(corpus, Budget(rows=K))
    assert not bounds.met(bounds.used(corpus[0].groups_NT[chosen_rows(free)]))  # they bind
    assert chosen.bound >= chosen.now.f


def test_caps_hold_under_a_budget_in_tokens(corpus):
    budget = Budget(tokens=K * 100)
    chosen = choose(corpus, budget, CAPS)
    check_sums(corpus, chosen)
    assert chosen.now.tokens <= budget.tokens


def test_a_floor_above_what_there_is_asks_for_all_of_it(corpus):
    available = np.bincount(corpus[0].groups_NT[:, 0], minlength=5)
    rare = int(available[:5].argmin())
    low = np.zeros(8, np.int64)
    low[rare] = 10**6
    chosen = choose(
        corpus, Budget(rows=K + available[rare]), replace(CAPS, low_G=low, high_G=low + 2**40)
    )
    check_sums(corpus, chosen)
    assert chosen.now.used_G[rare] == available[rare]


@pytest.mark.parametrize("budget", [Budget(rows=1), Budget(rows=N), Budget(tokens=12)])
def test_budgets_at_the_ends(corpus, budget):
    chosen = choose(corpus, budget)
    index = check_sums(corpus, chosen)
    assert len(index) == (budget.rows or len(index))
    ranked = rank.rank(chosen, N)
    assert np.sort(index_of(ranked.places_K2, N, SHARDS)).tolist() == index.tolist()


@pytest.mark.parametrize("budget", BUDGETS)
def test_excluded_rows_are_neither_chosen_nor_counted(corpus, budget):
    rows, objective = corpus
    free = np.setdiff1d(np.arange(N), np.arange(0, N, 3))
    chosen = choose(corpus, budget, taken=np.arange(0, N, 3))
    assert np.isin(check_sums(corpus, chosen), free).all()
    greedy = budgeted_greedy(rows.take(free), Problem(objective, budget)).gains.sum()
    everything = budgeted_greedy(rows, Problem(objective, budget)).gains.sum()
    assert greedy <= chosen.bound < everything * 1.005


def test_rows_at_some_places_come_from_their_workers(corpus):
    rows, objective = corpus
    workers = local_workers(rows, objective, SHARDS, 5)
    wanted = np.random.default_rng(2).choice(N, 300, replace=False)
    places = np.concatenate(workers.ask("places"))[wanted]
    assert (index_of(places, N, SHARDS) == wanted).all()
    parts, order = workers.rows_at(places)
    index, got = index_of(order, N, SHARDS), FeatureRows.concat(parts)
    assert sorted(index) == sorted(wanted)
    for column in ("uids_N2", "tokens_N", "neurons_NA", "paths_NP", "bonus_N", "groups_NT"):
        assert (getattr(got, column) == getattr(rows, column)[index]).all()
    # Only the workers that have some of them are asked.
    parts, order = workers.rows_at(np.array([[7, 3], [7, 0]], np.int32))
    assert len(parts) == 1
    assert order.tolist() == [[7, 3], [7, 0]]
    assert len(workers.rows_at(np.empty((0, 2), np.int32))[0]) == 0
    nothing = workers.actors[0].worker.fetch(0, np.empty((0, 2), np.int32))
    assert (len(nothing), nothing.neurons_NA.shape[1]) == (0, rows.neurons_NA.shape[1])


@pytest.mark.parametrize("exact_rows", [0, N])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_budget": 9}, "no example fits"),
        ({"size": 14, "floor_per_cluster": 3}, "floors"),  # of 5 clusters
        ({"size": 14, "floor_per_source": 5}, "floors"),  # of 3 sources
    ],
)
def test_what_cannot_be_had_is_refused_whatever_the_size(corpus, exact_rows, options, message):
    rows, objective = corpus
    if "floor_per_cluster" in options:
        rows = replace(rows, groups_NT=rows.groups_NT[:, :1])
    elif "floor_per_source" in options:
        rows = replace(rows, groups_NT=rows.groups_NT[:, 1:] - 5)
    else:
        rows = replace(rows, groups_NT=rows.groups_NT[:, :0])
    workers = local_workers(rows, objective, SHARDS, 3)
    config = RunConfig(output="run", selection=options | {"exact_rows": exact_rows})
    tree = SimpleNamespace(paths_CP=np.zeros((5, 2), np.int32))
    states = SimpleNamespace(examples=N, source_files=("a", "b", "c"))
    whole = SimpleNamespace(states=states, base=None, tree=tree, rounds=None)
    settings = Settings.of(config)
    with pytest.raises(ConfigError, match=message):
        select._mads(workers, settings, whole, *select._problem(workers, settings, whole))


@pytest.mark.parametrize("objective_name", ["union", "cap:2"])
def test_where_most_rows_add_nothing(objective_name):
    """All keys of the rows wanted are equal."""
    rows, objective = zipf(replace(SPEC, name=objective_name, width=20), N, 3)
    rows = replace(rows, groups_NT=np.zeros((N, 0), np.int32))
    chosen = choose((rows, objective), Budget(rows=K), buffer_rows=20)
    check_sums((rows, objective), chosen)
    full = lazy_greedy(rows, Problem(objective, Budget(rows=K))).gains.sum()
    assert full * 0.99 < chosen.now.f <= chosen.bound


@pytest.mark.parametrize("spread", [1, 3, SHARDS])
@pytest.mark.parametrize("budget", [*BUDGETS, Budget(rows=N)])
def test_the_exact_order_is_greedy_over_all_rows(corpus, spread, budget):
    rows, objective = corpus
    workers = local_workers(rows, objective, SHARDS, spread)
    places = np.random.default_rng(spread).permutation(np.concatenate(workers.ask("places")))
    base_D = objective.counts(rows, np.arange(40))
    problem = Problem(objective, budget, CAPS, base_D, seed=4)
    ranked = rank.exact_order(workers, places, problem)
    expected = budgeted_greedy(rows, problem)
    assert index_of(ranked.places_K2, N, SHARDS).tolist() == expected.picks.tolist()
    assert ranked.gains_K.tolist() == expected.gains.tolist()
    assert (ranked.counts_MD[-1] == expected.counts_D).all()


@pytest.mark.parametrize("by_cost", [False, True])
@pytest.mark.parametrize("spread", [1, 5])
def test_thresholds_hold_the_rows_with_the_smallest_hashes(corpus, spread, by_cost):
    rows, objective = corpus
    workers = local_workers(rows, objective, SHARDS, spread)
    streams = [(3, 1), (4, 2**33)]
    cost_N = rows.tokens_N.astype(np.int64) if by_cost else np.ones(N, np.int64)
    costs = np.array([0, 1, 9, 10, 200, 1500, int(cost_N.sum()) - 1, int(cost_N.sum()), 10**9])
    thresholds = hash_thresholds(workers, 0, streams, costs, by_cost)
    counts = workers.sum(random_set_counts, streams, thresholds)
    for s, stream in enumerate(streams):
        hashes = np.array([hash64(u, *stream) for u in uids(rows)], np.uint64)
        order = np.argsort(hashes)
        for b, cost in enumerate(costs):
            fits = order[np.cumsum(cost_N[order]) <= cost]
            assert (counts[s, b] == objective.counts(rows, fits)).all()
