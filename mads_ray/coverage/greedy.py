"""Lazy greedy on rows in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mads_ray.coverage import kernels
from mads_ray.coverage.objective import Objective
from mads_ray.coverage.rows import FeatureRows

_NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `rows` examples and at most `tokens` tokens; None is no limit."""

    rows: int | None = None
    tokens: int | None = None

    def share(self, part: float, oversample: float) -> Budget:
        """The budget of a node that holds `part` of the corpus, oversampled, rounded up."""
        scale = part * oversample

        def of(whole: int | None) -> int | None:
            return None if whole is None else min(whole, int(np.ceil(whole * scale)))

        return Budget(of(self.rows), of(self.tokens))


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Row indices in greedy order with each pick's marginal gain, in units of 2^-20."""

    picks: npt.NDArray[np.int64]
    gains: npt.NDArray[np.int64]


def lazy_greedy(rows: FeatureRows, objective: Objective, budget: Budget, seed: int) -> Selection:
    """Greedy by (gain, hash(uid, seed), uid): the result depends on the set of rows alone."""
    counts_D = objective.empty_counts()
    picks, gains = kernels.lazy_greedy(
        rows.neurons_NA,
        rows.paths_NP,
        objective.base_A,
        objective.neurons,
        counts_D,
        objective.prices(counts_D),
        objective.class_D,
        objective.marginal_CM,
        rows.tie_rank(seed),
        rows.tokens_N,
        _NO_LIMIT if budget.rows is None else budget.rows,
        _NO_LIMIT if budget.tokens is None else budget.tokens,
    )
    return Selection(picks, gains)


def gains(
    rows: FeatureRows, objective: Objective, prices_D: npt.NDArray[np.generic]
) -> npt.NDArray[np.generic]:
    """Sum of the prices of every row's features, (N,), in the prices' dtype."""
    result: npt.NDArray[np.generic] = kernels.gains(
        rows.neurons_NA, rows.paths_NP, objective.base_A, objective.neurons, prices_D
    )
    return result
