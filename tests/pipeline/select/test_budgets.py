"""Budgets in tokens, and budgets of one row and of all rows, in both modes."""

import numpy as np
import pytest
from selections import config_of, pick

from mads_ray.errors import ConfigError
from mads_ray.pipeline.select.scores import compare_with_random
from mads_ray.submodular.greedy import budgeted_greedy
from mads_ray.submodular.objective import UNIT
from mads_ray.submodular.problem import Budget, Problem

N = 4000
MODES = {"exact": {}, "exchange": {"exact_rows": 0, "buffer_rows": 600}}
both = pytest.mark.parametrize("mode", MODES)


def whole_tokens(setup):
    return int(setup.rows.tokens_N.sum())


@both
@pytest.mark.parametrize("share", [0.003, 0.05, 0.3])
def test_tokens_are_never_exceeded(workers, zipf, mode, share):
    setup = zipf(8)
    tokens = int(share * whole_tokens(setup))
    picked = pick(workers, setup, config_of(token_budget=tokens, **MODES[mode]))
    spent = setup.rows.tokens_N[picked.index].sum()
    assert spent <= tokens
    assert spent > 0.98 * tokens
    assert len(set(picked.uids)) == len(picked.uids)
    assert picked.gains.sum() == setup.value(picked.index)
    assert picked.ranked.marks_M[-1] == len(picked.index)


@pytest.mark.parametrize("share", [0.003, 0.05, 0.3])
def test_under_tokens_exchange_comes_close_to_exact(workers, zipf, share):
    setup = zipf(8)
    tokens = int(share * whole_tokens(setup))
    exact, exchange = (
        pick(workers, setup, config_of(token_budget=tokens, **MODES[m])) for m in MODES
    )
    assert exact.exact
    assert not exchange.exact
    assert exchange.gains.sum() > 0.97 * exact.gains.sum()
    assert exchange.exchange.bound >= exact.gains.sum()


@both
def test_what_is_certified_under_tokens_is_true(workers, zipf, mode):
    setup, config = zipf(8), config_of(token_budget=20_000, **MODES[mode])
    picked = pick(workers, setup, config)
    found = compare_with_random(workers, picked.exchange.problem, picked.ranked, N, sets=5)
    exact = Problem(setup.objective, Budget(tokens=20_000))
    best = budgeted_greedy(setup.rows, exact).gains.sum() / UNIT
    assert found.metrics["opt_upper_bound"] >= max(best, found.metrics["f"])
    assert 0.98 < found.metrics["certified_ratio"] <= found.metrics["f"] / best
    assert len(found.prefixes) > 1
    for p in found.prefixes:
        assert 0.95 < p["certified_ratio"] < 1


def test_under_tokens_exact_is_the_better_of_gain_and_gain_per_token(workers, zipf):
    setup = zipf(8)
    greedy = budgeted_greedy(setup.rows, Problem(setup.objective, Budget(tokens=20_000)))
    picked = pick(workers, setup, config_of(token_budget=20_000))
    assert picked.index.tolist() == greedy.picks.tolist()
    assert picked.gains.tolist() == greedy.gains.tolist()


def test_under_tokens_short_rows_are_preferred(workers, zipf):
    setup = zipf(8)
    tokens = int(0.05 * whole_tokens(setup))
    for how in MODES.values():
        picked = pick(workers, setup, config_of(token_budget=tokens, **how))
        assert len(picked.index) > 1.3 * 0.05 * N


@both
def test_one_row(workers, zipf, mode):
    """Every row alone is worth the same where no feature is in yet, but for the clusters' sum."""
    setup = zipf(8)
    picked = pick(workers, setup, config_of(size=1, **MODES[mode]))
    assert len(picked.index) == 1
    assert picked.gains.tolist() == [setup.value(picked.index)]
    best = max(setup.value(np.array([i])) for i in range(0, N, 40))
    assert picked.gains[0] >= best


@both
def test_all_rows(workers, zipf, mode):
    setup = zipf(8)
    picked = pick(workers, setup, config_of(size=N, **MODES[mode]))
    assert sorted(picked.index.tolist()) == list(range(N))
    assert picked.gains.sum() == setup.value(np.arange(N))


@both
def test_a_fraction_is_rounded_down_but_never_to_nothing(workers, zipf, mode):
    for fraction, rows in ((0.00001, 1), (0.01024, 40), (0.15, 600)):
        config = config_of(fraction=fraction, **MODES[mode])
        assert len(pick(workers, zipf(8), config).index) == rows


@both
def test_what_cannot_be_had_is_refused(workers, zipf, mode):
    with pytest.raises(ConfigError, match="--size 4001 is more than the 4000 examples"):
        pick(workers, zipf(8), config_of(size=N + 1, **MODES[mode]))
    with pytest.raises(ConfigError, match="no example fits the budget of 7 tokens"):
        pick(workers, zipf(8), config_of(token_budget=7, **MODES[mode]))


@both
def test_tokens_for_the_shortest_row_alone(workers, zipf, mode):
    setup = zipf(8)
    shortest = int(setup.rows.tokens_N.min())
    picked = pick(workers, setup, config_of(token_budget=shortest, **MODES[mode]))
    assert setup.rows.tokens_N[picked.index].tolist() == [shortest]
