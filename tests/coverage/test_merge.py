import math
import random
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import Problem, arrays, quick, random_instance, zipf_arrays

from mads_ray.coverage.greedy import Budget, lazy_greedy
from mads_ray.coverage.merge import coverage_set, merge_levels
from mads_ray.coverage.objective import make_objective
from mads_ray.coverage.rows import FeatureRows


@pytest.mark.parametrize("fan_in", [2, 3, 5, 16, 100, 1000])
def test_levels_cover_every_leaf_once_and_end_in_one_root(fan_in):
    for leaves in range(1, 101):
        covered = [[i] for i in range(leaves)]
        for groups in merge_levels(leaves, fan_in):
            assert [i for group in groups for i in group] == list(range(len(covered)))
            assert all(1 <= len(group) <= fan_in for group in groups)
            covered = [[leaf for i in group for leaf in covered[i]] for group in groups]
        assert covered == [list(range(leaves))]


def test_a_single_leaf_is_the_root():
    assert merge_levels(1, 2) == []
    assert merge_levels(16, 16) == [[range(16)]]
    assert [len(groups) for groups in merge_levels(17, 16)] == [2, 1]


@quick
@given(st.integers(0, 2**31 - 1), st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_the_root_over_whole_parts_is_lazy_greedy(seed, n, k, parts):
    rng, problem, examples = random_instance(seed, n)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    selection = lazy_greedy(rows, objective, Budget(rows=k), seed)
    split = [examples[i::parts] for i in range(parts)]
    rng.shuffle(split)
    pieces = [FeatureRows(*arrays(problem, s)) for s in split]
    merged = coverage_set(pieces, objective, Budget(rows=k), seed)
    expected = rows.take(selection.picks)
    assert merged.uids.tolist() == expected.uids.tolist()
    assert merged.tokens_N.tolist() == expected.tokens_N.tolist()
    assert merged.neurons_NA.tolist() == expected.neurons_NA.tolist()
    assert merged.paths_NP.tolist() == expected.paths_NP.tolist()
    assert merged.neurons_NA.dtype == np.uint16


def test_one_leaf_with_the_full_budget_is_lazy_greedy():
    _, problem, examples = random_instance(6, 30)
    rows, objective = FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))
    selection = lazy_greedy(rows, objective, Budget(rows=11), 4)
    leaf = coverage_set([rows], objective, Budget(rows=11), 4)
    assert leaf.uids.tolist() == rows.uids[selection.picks].tolist()


@pytest.mark.parametrize("name", ["sqrt", "log1p"])
def test_a_two_level_tree_keeps_95_percent_of_the_lift(name):
    n, k, shards = 3200, 480, 8
    problem = Problem(name, 4, 400, 8, (4, 16, 64), 0.5, k)
    rows, objective = FeatureRows(*zipf_arrays(problem, n, 1)), make_objective(*astuple(problem))
    rng = np.random.default_rng(2)

    def f(chosen):
        return objective.value(objective.counts(chosen))

    lazy = f(coverage_set([rows], objective, Budget(rows=k), 0))
    draws = [f(rows.take(rng.choice(n, k, replace=False))) for _ in range(10)]
    share = Budget(rows=k).share(1 / shards, 2.0)
    assert share == Budget(rows=120)
    parts = np.array_split(rng.permutation(n), shards)
    sets = [coverage_set([rows.take(part)], objective, share, 0) for part in parts]
    root = coverage_set(sets, objective, Budget(rows=k), 0)
    assert len(root) == len(set(root.uids.tolist())) == k
    zero = sum(draws) / len(draws)
    assert lazy > 1.02 * zero  # there is something to lose
    assert (f(root) - zero) / (lazy - zero) >= 0.95


@pytest.mark.parametrize(
    ("budget", "part", "oversample", "expected"),
    [
        (Budget(rows=100), 1 / 8, 2.0, Budget(rows=25)),
        (Budget(rows=100), 1 / 8, 1.0, Budget(rows=13)),
        (Budget(rows=10), 1 / 3, 1.0, Budget(rows=4)),
        (Budget(rows=1), 1 / 64, 2.0, Budget(rows=1)),
        (Budget(rows=10), 1 / 2, 4.0, Budget(rows=10)),
        (Budget(tokens=1001), 1 / 4, 2.0, Budget(tokens=501)),
        (Budget(9, 1000), 1 / 2, 1.0, Budget(5, 500)),
        (Budget(), 1 / 2, 1.0, Budget()),
    ],
)
def test_share_of_a_budget_is_rounded_up(budget, part, oversample, expected):
    assert budget.share(part, oversample) == expected


@quick
@given(
    st.integers(1, 10**7), st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([1, 2, 3])
)
def test_shares_of_all_leaves_fill_the_budget(whole, leaves, covered, oversample):
    covered = min(covered, leaves)
    exact = -(-whole * covered * oversample // leaves)
    got = Budget(rows=whole).share(covered / leaves, oversample).rows
    assert min(whole, exact) <= got <= min(whole, exact + 1)  # + 1: rounding of the part
    leaf = Budget(rows=whole).share(1 / leaves, 1.0).rows
    assert leaf * leaves >= whole
    assert leaf <= math.ceil(whole / leaves) + 1


def test_a_token_budget_holds_at_every_node():
    problem = Problem("sqrt", 2, 50, 4, (4,), 0.5, 200)
    rows, objective = FeatureRows(*zipf_arrays(problem, 200, 3)), make_objective(*astuple(problem))
    budget = Budget(tokens=4000)
    order = random.Random(0).sample(range(200), 200)
    share = budget.share(1 / 4, 2.0)
    sets = [coverage_set([rows.take(np.array(order[i::4]))], objective, share, 0) for i in range(4)]
    assert all(0 < s.tokens_N.sum() <= 2000 for s in sets)
    assert 3500 < coverage_set(sets, objective, budget, 0).tokens_N.sum() <= 4000
