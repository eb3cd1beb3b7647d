import math
import random
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    OBJECTIVES,
    UNIT,
    Problem,
    arrays,
    count,
    feature_index,
    quick,
    random_examples,
    random_instance,
    value,
)

from mads_ray.coverage.greedy import gains
from mads_ray.coverage.objective import make_objective, phi
from mads_ray.coverage.rows import FeatureRows

PROBLEM = Problem("sqrt", 2, 10, 3, (2, 5), 0.5, 50)


@pytest.mark.parametrize(
    ("name", "by_math"),
    [
        ("sqrt", math.sqrt),
        ("log1p", math.log1p),
        ("union", lambda c: min(c, 1)),
        ("cap:3", lambda c: min(c, 3)),
        ("cap:12", lambda c: min(c, 12)),
    ],
)
def test_phi_is_the_named_function(name, by_math):
    curve = phi(name, 40)
    assert curve.tolist() == pytest.approx([by_math(c) for c in range(41)], rel=1e-15)
    assert curve[0] == 0


@pytest.mark.parametrize("name", ["", "Sqrt", "linear", "cap"])
def test_unknown_phi_is_refused_by_name(name):
    with pytest.raises(ValueError, match="unknown objective"):
        phi(name, 3)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_tables_follow_phi_and_are_concave(name):
    objective = make_objective(*astuple(replace(PROBLEM, name=name, most_rows=3000)))
    weights = [1, 0.5 * 6 / 2, 0.5 * 6 / 2]
    expected = np.array([[w * c for c in phi(name, 3000)] for w in weights])
    rounding = np.arange(3001) * 0.51 / UNIT + 1e-9
    assert (np.abs(objective.value_CM[:, :3001] / UNIT - expected) <= rounding).all()
    assert (np.diff(objective.marginal_CM, axis=1) <= 0).all()
    assert (objective.marginal_CM >= 0).all()


@quick
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_monotone_and_submodular(seed, n):
    rng, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    large = rng.sample(range(n), rng.randint(0, n))
    small = large[: rng.randint(0, len(large))]
    counts_small = objective.counts(rows, np.array(small, np.int64))
    counts_large = objective.counts(rows, np.array(large, np.int64))
    over_small = gains(rows, objective, objective.prices(counts_small))
    over_large = gains(rows, objective, objective.prices(counts_large))
    assert over_small.dtype == np.int64
    assert (over_small >= over_large).all()
    assert (over_large >= 0).all()
    for i in set(range(n)) - set(large):
        union = objective.counts(rows, np.array([*large, i]))
        assert objective.value(union) - objective.value(counts_large) == over_large[i]


@quick
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_value_is_the_sum_of_gains_in_any_order(seed, n):
    rng, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    chosen = rng.sample(range(n), rng.randint(1, n))
    total, done = 0, []
    for i in chosen:
        prices = objective.prices(objective.counts(rows, np.array(done, np.int64)))
        total += int(gains(rows.take(np.array([i])), objective, prices)[0])
        done.append(i)
    assert total == objective.value(objective.counts(rows, np.array(chosen)))
    assert total == value(problem, [examples[i] for i in chosen])


@quick
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_counts_equal_the_reference(seed, n):
    rng, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    chosen = rng.sample(range(n), rng.randint(0, n))
    expected = np.zeros(len(objective.class_D), np.int32)
    for feature, c in count(examples[i] for i in chosen).items():
        expected[feature_index(problem, feature)] = c
    counts = objective.counts(rows, np.array(chosen, np.int64))
    assert counts.dtype == np.int32
    assert counts.tolist() == expected.tolist()


def test_counts_of_more_rows_than_a_block():
    examples = random_examples(random.Random(1), PROBLEM, 2500)
    objective = make_objective(*astuple(PROBLEM))
    counts = objective.counts(FeatureRows(*arrays(PROBLEM, examples)))
    expected = count(examples)
    assert {j: c for j, c in enumerate(counts.tolist()) if c} == {
        feature_index(PROBLEM, f): c for f, c in expected.items()
    }


def test_prices_are_the_marginals_of_value():
    _, problem, examples = random_instance(7, 9, "log1p")
    problem = replace(problem, tree_share=0.7)
    objective = make_objective(*astuple(problem))
    counts = objective.counts(FeatureRows(*arrays(problem, examples[:8])))
    prices = objective.prices(counts)
    for j in range(len(counts)):
        more = counts.copy()
        more[j] += 1
        assert objective.value(more) - objective.value(counts) == prices[j]


def test_classes_and_bases_number_the_features():
    objective = make_objective(*astuple(PROBLEM))
    assert objective.neurons == 20
    assert objective.base_A.tolist() == [0, 0, 0, 10, 10, 10]
    assert objective.class_D.tolist() == [0] * 20 + [1] * 2 + [2] * 5
    assert objective.value(objective.empty_counts()) == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_tree_share_zero_makes_nodes_weightless(name):
    _, problem, examples = random_instance(3, 9, name)
    problem = replace(problem, tree_share=0.0)
    objective = make_objective(*astuple(problem))
    counts = objective.counts(FeatureRows(*arrays(problem, examples)))
    neurons_only = counts.copy()
    neurons_only[objective.neurons :] = 0
    assert counts[objective.neurons :].sum() > 0
    assert objective.value(counts) == objective.value(neurons_only) > 0
    assert not objective.prices(counts)[objective.neurons :].any()


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("levels", [(4,), (2, 5), (1, 2, 3)])
def test_a_path_weighs_tree_share_times_the_active_neurons(share, levels):
    problem = replace(PROBLEM, name="union", tree_share=share, level_sizes=levels)
    objective = make_objective(*astuple(problem))
    one = np.zeros(len(objective.class_D), np.int32)
    nodes = objective.neurons + np.concatenate([[0], np.cumsum(levels)[:-1]])
    one[nodes] = 1
    assert objective.value(one) / UNIT == pytest.approx(share * 6, abs=len(levels) / UNIT)


def test_no_tree_at_all():
    problem = replace(PROBLEM, level_sizes=(), tree_share=0.0)
    objective = make_objective(*astuple(problem))
    assert len(objective.class_D) == 20
