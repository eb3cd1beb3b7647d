"""`mads_ray.submodular` is a library of its own: what it needs, its example, what it refuses."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

from mads_ray import submodular
from mads_ray.submodular import (
    Bounds,
    Budget,
    FeatureRows,
    FeatureSpace,
    Problem,
    lazy_greedy,
    make_objective,
)


def test_it_needs_numpy_and_numba_alone():
    banned = (
        "{'ray', 'torch', 'pydantic', 'pyarrow', 'faiss', 'mads_ray.config', 'mads_ray.pipeline'}"
    )
    code = f"import sys, mads_ray.submodular; sys.exit(bool({banned} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_of_its_docstring():
    assert doctest.testmod(submodular).failed == 0
    assert doctest.testmod(submodular).attempted > 5


def test_what_is_left_out_has_a_default():
    features = np.array([[0], [1], [1]], np.uint16)
    objective = make_objective("sqrt", FeatureSpace(1, 2, 1))
    problem = Problem(objective, Budget(rows=2))
    assert problem.base_D.tolist() == [0, 0]
    assert len(problem.bounds) == problem.seed == 0
    rows = FeatureRows.of(features)
    assert rows.tokens_N.tolist() == [1, 1, 1]
    assert rows.uids_N2.tolist() == [[0, 0], [0, 1], [0, 2]]
    first, second = lazy_greedy(rows, problem).picks
    assert {features[first, 0], features[second, 0]} == {0, 1}


def test_a_budget_in_tokens_goes_by_cost_unless_told_otherwise():
    assert not Budget(rows=3).by_cost
    assert Budget(tokens=3).by_cost
    assert not Budget(tokens=3, by_cost=False).by_cost
    assert Budget(rows=3, by_cost=True).by_cost


@pytest.mark.parametrize(
    ("neurons", "path", "message"),
    [
        ([[0, 1, 2]], [[0]], "rows have 3 neurons, not 1 in each of 2 layers"),
        ([[0, 4]], [[0]], "neuron 4 is beyond a layer of 4"),
        ([[0, 3]], [[3]], "beyond the 3 of the tree"),
        ([[0, 3]], [[-1]], "beyond the 3 of the tree"),
    ],
)
def test_features_that_the_objective_does_not_know_are_refused(neurons, path, message):
    """The compiled loops would read beyond their arrays."""
    objective = make_objective("sqrt", FeatureSpace(2, 4, 1, (1, 2)), tree_share=1.0)
    rows = FeatureRows.of(np.array(neurons, np.uint16), paths_NP=np.array(path, np.int32))
    with pytest.raises(ValueError, match=message):
        lazy_greedy(rows, Problem(objective, Budget(rows=1)))


def test_bounds_left_to_further_rows():
    bounds = Bounds(np.array([3, 0]), np.array([5, 2**62]), np.array([0, 0]))
    left = bounds.left(np.array([4, 1]))
    assert left.low_G.tolist() == [-1, -1]
    assert left.high_G.tolist() == [1, 2**62 - 1]
    assert left.limits(Budget(rows=9)).need_T.tolist() == [0]
