from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    UNIT,
    Problem,
    arrays,
    best_value,
    quick,
    random_instance,
    value,
    zipf_arrays,
)

from mads_ray.coverage.certificate import dual_prices, excess, lambda_grid, scores, upper_bound
from mads_ray.coverage.greedy import Budget, gains, lazy_greedy
from mads_ray.coverage.objective import make_objective
from mads_ray.coverage.rows import FeatureRows

seeds = st.integers(0, 2**31 - 1)
SLACK = 1 - 1e-12  # float64 sums


def bound_of(rows, objective, core, limit, by_tokens):
    dual = dual_prices(objective, objective.counts(rows, core))
    lambdas = lambda_grid(scores(rows, objective, dual, by_tokens), len(core) / len(rows))
    return upper_bound(dual, lambdas, excess(rows, objective, dual, lambdas, by_tokens), limit)


@quick
@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_never_below_the_optimum_of_a_row_budget(seed, n, k):
    _, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    selection = lazy_greedy(rows, objective, Budget(rows=k), 0)
    bound = bound_of(rows, objective, selection.picks, min(k, n), False)
    assert bound >= best_value(problem, examples, rows=k) / UNIT * SLACK
    assert bound >= selection.gains.sum() / UNIT * SLACK


@quick
@given(seeds, st.integers(1, 9), st.integers(1, 30))
def test_never_below_the_optimum_of_a_token_budget(seed, n, tokens):
    _, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    selection = lazy_greedy(rows, objective, Budget(tokens=tokens), 0)
    bound = bound_of(rows, objective, selection.picks, tokens, True)
    assert bound >= best_value(problem, examples, tokens=tokens) / UNIT * SLACK
    assert bound >= selection.gains.sum() / UNIT * SLACK


@quick
@given(seeds, st.integers(1, 9), st.booleans())
def test_valid_around_any_set_and_for_any_lambda(seed, n, by_tokens):
    rng, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    core = np.array(rng.sample(range(n), rng.randint(0, n)), np.int64)
    dual = dual_prices(objective, objective.counts(rows, core))
    assert (dual.pi_QD >= 0).all()
    lambdas = np.array([[rng.uniform(0, 10) for _ in range(4)] for _ in dual.constant_Q])
    limit = rng.randint(1, 3 * n)
    bound = upper_bound(dual, lambdas, excess(rows, objective, dual, lambdas, by_tokens), limit)
    kind = {"tokens" if by_tokens else "rows": limit}
    assert bound >= best_value(problem, examples, **kind) / UNIT * SLACK


@quick
@given(seeds, st.integers(1, 9))
def test_tight_when_everything_is_chosen(seed, n):
    _, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    dual = dual_prices(objective, objective.counts(rows))
    lambdas = np.zeros((len(dual.constant_Q), 1))
    bound = upper_bound(dual, lambdas, excess(rows, objective, dual, lambdas, False), n)
    assert bound == pytest.approx(value(problem, examples) / UNIT, rel=1e-9)


@pytest.mark.parametrize("name", ["sqrt", "log1p", "cap:8"])
def test_certifies_greedy_on_a_larger_corpus(name):
    problem = Problem(name, 4, 300, 8, (4, 16, 64), 0.5, 300)
    rows, objective = FeatureRows(*zipf_arrays(problem, 2000, 9)), make_objective(*astuple(problem))
    selection = lazy_greedy(rows, objective, Budget(rows=300), 0)
    bound = bound_of(rows, objective, selection.picks, 300, False)
    assert 0.9 * bound < selection.gains.sum() / UNIT <= bound


def test_certifies_a_good_core_set_of_a_token_budget():
    problem = Problem("sqrt", 4, 300, 8, (4, 16, 64), 0.5, 2000)
    rows, objective = FeatureRows(*zipf_arrays(problem, 2000, 9)), make_objective(*astuple(problem))
    limit = int(0.15 * rows.tokens_N.sum())
    core = []  # greedy by gain a token
    while True:
        prices = objective.prices(objective.counts(rows, np.array(core, np.int64)))
        density = gains(rows, objective, prices) / rows.tokens_N
        density[rows.tokens_N[core].sum() + rows.tokens_N > limit] = -1
        density[core] = -1
        if density.max() < 0:
            break
        core.append(int(density.argmax()))
    core = np.array(core)
    bound = bound_of(rows, objective, core, limit, True)
    assert 0.95 * bound < objective.value(objective.counts(rows, core)) / UNIT <= bound
    by_gain = lazy_greedy(rows, objective, Budget(tokens=limit), 0)
    assert by_gain.gains.sum() / UNIT <= bound_of(rows, objective, by_gain.picks, limit, True)


@pytest.mark.parametrize("by_tokens", [False, True])
def test_excess_adds_over_shards(by_tokens):
    problem = Problem("sqrt", 3, 100, 5, (4, 16), 0.5, 600)
    rows, objective = FeatureRows(*zipf_arrays(problem, 600, 4)), make_objective(*astuple(problem))
    core = lazy_greedy(rows, objective, Budget(rows=90), 0).picks
    dual = dual_prices(objective, objective.counts(rows, core))
    lambdas = lambda_grid(scores(rows, objective, dual, by_tokens), 0.15)
    whole = excess(rows, objective, dual, lambdas, by_tokens)
    shards = np.array_split(np.random.default_rng(0).permutation(600), 5)
    parts = [excess(rows.take(s), objective, dual, lambdas, by_tokens) for s in shards]
    assert whole.shape == lambdas.shape == (3, 65)
    assert (whole > 0).any()
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-12, atol=1e-9)


def test_scores_are_prices_per_unit_of_cost():
    _, problem, examples = random_instance(5, 8, "sqrt")
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    dual = dual_prices(objective, objective.counts(rows, np.arange(3)))
    expected = np.array(
        [
            [(objective.counts(rows, np.array([i])) * pi).sum() for i in range(8)]
            for pi in dual.pi_QD
        ]
    )
    np.testing.assert_allclose(scores(rows, objective, dual, False), expected, rtol=1e-12)
    per_token = expected / rows.tokens_N
    np.testing.assert_allclose(scores(rows, objective, dual, True), per_token, rtol=1e-12)
