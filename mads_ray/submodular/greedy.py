"""Lazy greedy on rows in memory, under a budget and the bounds of partitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mads_ray.arrays import I32, I64, U64, Mask
from mads_ray.submodular import kernels
from mads_ray.submodular import lazy_greedy_kernel as lazy_kernel
from mads_ray.submodular.kernels import Block, Limits
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.rows import FeatureRows

_NO_LIMIT = 2**62
EXACT = 63  # slack of true lazy greedy
# A gain within 2^-7 of the best bound is taken as it is. The gains of thousands of rows lie closer
# than that: on zipfian states it saves half of the evaluations and costs 0.001 of lift.
SLACK = 7


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `rows` examples and at most `tokens` tokens; None is no limit.

    A budget in tokens makes greedy pick by gain per token.
    """

    rows: int | None = None
    tokens: int | None = None

    @property
    def by_cost(self) -> bool:
        """Whether gains are divided by tokens."""
        return self.tokens is not None


def group_sizes(groups_NT: I32, groups: int) -> I64:
    """Rows in each of the groups, int64 (G,); none where nobody asks for groups."""
    if not groups:
        return np.zeros(0, np.int64)
    return np.bincount(groups_NT.ravel(), minlength=groups).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """A partition matroid, or several: at least `low_G` and at most `high_G` rows of each group.

    `partition_G` int64 tells which of the T partitions a group belongs to. Reaching every floor
    within a budget of rows is a matroid again (El Halabi et al. 2020), so greedy is within 1/2.
    """

    low_G: I64
    high_G: I64
    partition_G: I64

    @classmethod
    def none(cls) -> Bounds:
        """No partition at all."""
        return cls(*(np.empty(0, np.int64) for _ in range(3)))

    def __len__(self) -> int:
        return len(self.low_G)

    def limits(self, budget: Budget, used_G: I64 | None = None) -> Limits:
        """For the compiled loops, with `used_G` rows of each group already in."""
        used = np.zeros(len(self), np.int64) if used_G is None else used_G.copy()
        lacking = np.maximum(self.low_G - used, 0)
        partitions = int(self.partition_G.max()) + 1 if len(self) else 0
        need = np.bincount(self.partition_G, lacking, partitions).astype(np.int64)
        return Limits(
            _NO_LIMIT if budget.rows is None else budget.rows,
            _NO_LIMIT if budget.tokens is None else budget.tokens,
            used,
            self.low_G,
            self.high_G,
            need,
        )

    def shared(self, used_G: I64, blocks: int) -> Bounds:
        """Tighter bounds that `blocks` steps at the same time can all use up without harm."""
        low_G = used_G - (used_G - self.low_G) // blocks
        high_G = used_G + (self.high_G - used_G) // blocks
        return Bounds(low_G, high_G, self.partition_G)

    def used(self, groups_NT: I32) -> I64:
        """Rows in each group, int64 (G,)."""
        return group_sizes(groups_NT, len(self))

    def met(self, used_G: I64) -> bool:
        """Whether a set with these group sizes is allowed."""
        return bool(((used_G >= self.low_G) & (used_G <= self.high_G)).all())


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Row indices in greedy order with each pick's marginal gain, in units of 2^-28, and the
    counts of everything that is in afterwards."""

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
    objective: Objective,
    budget: Budget,
    seed: int,
    *,
    counts_D: I32 | None = None,
    limits: Limits | None = None,
    rank_N: I64 | None = None,
    open_N: Mask | None = None,
    by_cost: bool | None = None,
    slack: int = EXACT,
) -> Selection:
    """Greedy by (gain, hash(uid, seed), uid): the result depends on the set of rows alone.

    `counts_D` and `limits` tell what is in already. `rank_N` saves hashing the uids again. With
    `slack` s, every pick's gain is at least 1 / (1 + 2^-s) of the best one.
    """
    counts = objective.empty_counts() if counts_D is None else counts_D.copy()
    if limits is None:
        limits = Bounds.none().limits(budget)
    block = block_of(
        rows if len(limits.used_G) else rows.ungrouped(),
        rows.tie_rank(seed) if rank_N is None else rank_N,
        budget.by_cost if by_cost is None else by_cost,
        open_N,
    )
    picks, gains = lazy_kernel.lazy_greedy(
        block,
        objective.space,
        limits,
        slack,
        counts,
        objective.prices(counts),
    )
    return Selection(picks, gains, counts)


def budgeted_greedy(
    rows: FeatureRows,
    objective: Objective,
    budget: Budget,
    seed: int,
    *,
    counts_D: I32 | None = None,
    bounds: Bounds | None = None,
) -> Selection:
    """Lazy greedy from scratch; under a budget in tokens the better of gain and gain per token.

    The better of the two is within (1 - 1/e) / 2 of the optimum, where either alone can be
    arbitrarily bad (Leskovec et al. 2007).
    """
    bounds = Bounds.none() if bounds is None else bounds
    tries = [
        lazy_greedy(
            rows,
            objective,
            budget,
            seed,
            counts_D=counts_D,
            limits=bounds.limits(budget),
            by_cost=by_cost,
        )
        for by_cost in ([True, False] if budget.by_cost else [False])
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
