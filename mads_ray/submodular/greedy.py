"""Lazy greedy on rows in memory, and the compiled loops beside it for those who have rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mads_ray.arrays import I32, I64, U64, Mask
from mads_ray.submodular import kernels
from mads_ray.submodular import lazy_greedy_kernel as lazy_kernel
from mads_ray.submodular.kernels import Block
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.problem import Bounds, Budget, Problem
from mads_ray.submodular.rows import FeatureRows

EXACT = 63  # slack of true lazy greedy
# A gain within 2^-7 of the best bound is taken as it is. The gains of thousands of rows lie closer
# than that: on zipfian states it saves half of the evaluations and costs 0.001 of lift.
SLACK = 7


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What greedy selects.

    Args:
        picks: int64 (K,), row numbers in greedy order: every prefix is the selection of its size.
        gains: int64 (K,), by how much each pick raised f, in units of 2^-28 (`UNIT`).
        counts_D: int32 (D,), how many rows have each feature afterwards, the base included.
    """

    picks: I64
    gains: I64
    counts_D: I32


def block_of(
    rows: FeatureRows, rank_N: I64, by_cost: bool = False, open_N: Mask | None = None
) -> Block:
    """Rows as the compiled loops take them."""
    return Block(
        rows.neurons_NA,
        rows.paths_NP,
        rows.bonus_N,
        rows.tokens_N,
        np.maximum(rows.tokens_N, 1).astype(np.int64) if by_cost else np.ones(len(rows), np.int64),
        rank_N,
        rows.groups_NT,
        np.ones(len(rows), np.bool_) if open_N is None else open_N,
    )


def lazy_greedy(
    rows: FeatureRows,
    problem: Problem,
    *,
    rank_N: I64 | None = None,
    open_N: Mask | None = None,
    slack: int = EXACT,
) -> Selection:
    """Select rows greedily, with stale gains as upper bounds (Minoux 1978).

    Without bounds and for a budget in rows, f is within 1 - 1/e of the optimum. Ties go by
    (hash(uid, seed), uid), so the result depends on the set of rows and not on their order.

    Args:
        rows: what to select from, N rows.
        problem: objective, budget, bounds, and what is in already.
        rank_N: int64 (N,), `rows.tie_rank(problem.seed)` where that is known.
        open_N: bool (N,), rows that may be selected; by default all.
        slack: every pick's gain is at least 1 / (1 + 2^-slack) of the best one; by default exact.

    Returns:
        The picks in greedy order, with their gains.

    Raises:
        ValueError: rows have features that the objective does not know.
    """
    objective = problem.objective
    objective.require(rows)
    counts_D = problem.base_D.copy()
    limits = problem.bounds.limits(problem.budget)
    block = block_of(
        rows if len(problem.bounds) else rows.ungrouped(),
        rows.tie_rank(problem.seed) if rank_N is None else rank_N,
        problem.budget.by_cost,
        open_N,
    )
    prices_D = objective.prices(counts_D)
    picks, gains = lazy_kernel.lazy_greedy(
        block, objective.space, limits, slack, counts_D, prices_D
    )
    return Selection(picks, gains, counts_D)


def budgeted_greedy(rows: FeatureRows, problem: Problem) -> Selection:
    """Lazy greedy; under a budget in tokens the better of gain and gain per token.

    The better of the two is within (1 - 1/e) / 2 of the optimum, where either alone can be
    arbitrarily bad (Leskovec et al. 2007).

    Args:
        rows: what to select from.
        problem: objective, budget, bounds, and what is in already.

    Returns:
        The picks in greedy order, with their gains.

    Raises:
        ValueError: rows have features that the objective does not know.
    """
    tokens = problem.budget.tokens
    tries = [
        lazy_greedy(rows, replace(problem, budget=replace(problem.budget, by_cost=by_cost)))
        for by_cost in ([True, False] if tokens is not None else [problem.budget.by_cost])
    ]
    return max(tries, key=lambda s: int(s.gains.sum()))


def in_order(rows: FeatureRows, objective: Objective, counts_D: I32) -> Selection:
    """All rows as they come, after `counts_D`, with their marginal gains."""
    counts = counts_D.copy()
    block = block_of(rows, np.empty(0, np.int64))
    gains: I64 = kernels.follow(block, objective.space, counts, objective.prices(counts))
    return Selection(np.arange(len(rows)), gains, counts)


def first_fitting(
    hashes_N: U64, tokens_N: I32, groups_NT: I32, bounds: Bounds, budget: Budget
) -> I64:
    """Rows in the order of their hashes that keep the bounds within reach and fit the budget."""
    n = len(hashes_N)
    rank_N = np.empty(n, np.int64)
    rank_N[np.argsort(hashes_N, kind="stable")] = np.arange(n)
    ones, every = np.ones(n, np.int64), np.ones(n, np.bool_)
    no_neurons, no_paths = np.empty((n, 0), np.uint16), np.empty((n, 0), np.int32)
    block = Block(no_neurons, no_paths, ones, tokens_N, ones, rank_N, groups_NT, every)
    picks: I64 = kernels.first_fitting(block, bounds.limits(budget))
    return picks


def gains(rows: FeatureRows, objective: Objective, prices_D: I64) -> I64:
    """Sum of the prices of every row's features, without its bonus; int64 (N,)."""
    block, nothing = block_of(rows, np.empty(0, np.int64)), np.zeros(len(rows), np.bool_)
    gain_N, _ = kernels.appraise(block, objective.space, nothing, prices_D, prices_D)
    result: I64 = gain_N - rows.bonus_N
    return result
