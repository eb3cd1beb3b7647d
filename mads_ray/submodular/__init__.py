"""Select rows that cover features: a monotone submodular objective in integers, and lazy greedy.

It stands alone: numpy and numba, no Ray. Five rows with two active features each, out of four:

>>> import numpy as np
>>> from mads_ray.submodular import Budget, FeatureRows, FeatureSpace, Problem
>>> from mads_ray.submodular import UNIT, lazy_greedy, make_objective
>>> features = np.array([[0, 1], [0, 1], [2, 3], [1, 2], [0, 3]], np.uint16)
>>> rows = FeatureRows.of(features, tokens_N=np.array([9, 9, 5, 2, 4], np.int32))
>>> objective = make_objective("sqrt", FeatureSpace(layers=1, width=4, per_layer=2))
>>> selection = lazy_greedy(rows, Problem(objective, Budget(rows=2)))
>>> selection.picks.tolist()
[0, 2]
>>> (selection.gains / UNIT).tolist()
[2.0, 2.0]

Under a budget in tokens, a row is selected for its gain per token:

>>> lazy_greedy(rows, Problem(objective, Budget(tokens=6))).picks.tolist()
[3, 4]
"""

from mads_ray.submodular.greedy import Selection, budgeted_greedy, lazy_greedy
from mads_ray.submodular.objective import UNIT, FeatureSpace, Objective, make_objective
from mads_ray.submodular.problem import Bounds, Budget, Problem
from mads_ray.submodular.rows import FeatureRows

__all__ = [
    "UNIT",
    "Bounds",
    "Budget",
    "FeatureRows",
    "FeatureSpace",
    "Objective",
    "Problem",
    "Selection",
    "budgeted_greedy",
    "lazy_greedy",
    "make_objective",
]
