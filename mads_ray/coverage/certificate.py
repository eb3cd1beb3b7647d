"""How close to the optimum a core set is, by weak duality.

For any prices pi >= 0 and any lambda >= 0, with cost_i = 1 (or tokens of i) and budget K (or T):

  OPT <= sum_j max_k [w_j phi(k) - pi_j k] + lambda * K + sum_i max(0, sum_{j in i} pi_j - lambda)

With pi between the right and the left derivative of phi at the core set's counts c the first
maximum is at k = c. The last sum adds over shards, so no scores are gathered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mads_ray.coverage.greedy import gains
from mads_ray.coverage.objective import I32, UNIT, Objective
from mads_ray.coverage.rows import FeatureRows

F64 = npt.NDArray[np.float64]
_MIXES = (0.3, 0.5, 0.7)
_LAMBDAS = 65


@dataclass(frozen=True, slots=True, eq=False)
class DualPrices:
    """`pi_QD` prices for Q mixes of the two derivatives; `constant_Q` the first sum."""

    pi_QD: F64
    constant_Q: F64


def dual_prices(objective: Objective, counts_D: I32) -> DualPrices:
    """Candidate prices around the counts of a core set."""
    right_D = objective.marginal_CM[objective.class_D, counts_D] / UNIT
    left_D = objective.marginal_CM[objective.class_D, np.maximum(counts_D - 1, 0)] / UNIT
    left_D = np.where(counts_D > 0, left_D, right_D)
    pi_QD = np.stack([(1 - m) * right_D + m * left_D for m in _MIXES])
    value_D = objective.value_CM[objective.class_D, counts_D] / UNIT
    return DualPrices(pi_QD, (value_D - pi_QD * counts_D).sum(1))


def scores(rows: FeatureRows, objective: Objective, dual: DualPrices, by_tokens: bool) -> F64:
    """Price a unit of cost, (Q, N)."""
    cost_N = rows.tokens_N.astype(np.float64) if by_tokens else np.ones(len(rows))
    return np.stack([np.asarray(gains(rows, objective, pi)) / cost_N for pi in dual.pi_QD])


def lambda_grid(sample_QN: F64, share: float) -> F64:
    """Candidate lambdas (Q, 65) around the price that a `share` of a sample of rows exceeds."""
    at = np.linspace(1 - min(1.0, 1.6 * share), 1 - 0.5 * share, _LAMBDAS)
    return np.quantile(sample_QN, np.clip(at, 0, 1), axis=1).T


def excess(
    rows: FeatureRows, objective: Objective, dual: DualPrices, lambdas: F64, by_tokens: bool
) -> F64:
    """sum_i max(0, price_i - lambda * cost_i) for every candidate, (Q, 65); adds over shards."""
    cost_N = rows.tokens_N.astype(np.float64) if by_tokens else np.ones(len(rows))
    unit_QN = scores(rows, objective, dual, by_tokens)
    out = np.empty(lambdas.shape)
    for q, unit_N in enumerate(unit_QN):
        for i, lam in enumerate(lambdas[q]):
            out[q, i] = (np.maximum(unit_N - lam, 0) * cost_N).sum()
    return out


def upper_bound(dual: DualPrices, lambdas: F64, excess_sum: F64, budget: int) -> float:
    """The smallest bound among all candidates; never below f(OPT)."""
    return float((dual.constant_Q[:, None] + lambdas * budget + excess_sum).min())
