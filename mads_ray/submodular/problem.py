"""What greedy solves: an objective, a budget, bounds of groups, and what is in already."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mads_ray.arrays import I32, I64
from mads_ray.submodular.kernels import Limits
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.totals import Delta, Totals, group_sizes

_NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be selected.

    Args:
        rows: at most so many rows; None is no limit.
        tokens: at most so many tokens; None is no limit.
        by_cost: whether greedy goes by gain per token instead of gain. By default it does so where
            `tokens` is given.
    """

    rows: int | None = None
    tokens: int | None = None
    by_cost: bool = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.by_cost is None:
            object.__setattr__(self, "by_cost", self.tokens is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """How many rows of each group are selected, at least and at most.

    Groups are numbered over all T partitions; a row is in one group of each partition (see
    `FeatureRows.groups_NT`). Floors of one partition within a budget in rows are a matroid (El
    Halabi et al. 2020), so greedy is within 1/2 of the optimum.

    Args:
        low_G: int64 (G,), the floor of each group; 0 is none.
        high_G: int64 (G,), the cap of each group; 2^62 is none.
        partition_G: int64 (G,), the partition that each group belongs to, from 0.
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

    def limits(self, budget: Budget) -> Limits:
        """As the compiled loops take them, together with a budget."""
        lacking = np.maximum(self.low_G, 0)
        partitions = int(self.partition_G.max()) + 1 if len(self) else 0
        need = np.bincount(self.partition_G, lacking, partitions).astype(np.int64)
        return Limits(
            _NO_LIMIT if budget.rows is None else budget.rows,
            _NO_LIMIT if budget.tokens is None else budget.tokens,
            np.zeros(len(self), np.int64),
            self.low_G,
            self.high_G,
            need,
        )

    def left(self, used_G: I64) -> Bounds:
        """What they leave to rows that come on top of `used_G` rows of each group."""
        return replace(self, low_G=self.low_G - used_G, high_G=self.high_G - used_G)

    def shared(self, used_G: I64, blocks: int) -> Bounds:
        """Tighter bounds that `blocks` steps at the same time can all use up without harm."""
        low_G = used_G - (used_G - self.low_G) // blocks
        high_G = used_G + (self.high_G - used_G) // blocks
        return replace(self, low_G=low_G, high_G=high_G)

    def used(self, groups_NT: I32) -> I64:
        """Rows in each group, int64 (G,)."""
        return group_sizes(groups_NT, len(self))

    def met(self, used_G: I64) -> bool:
        """Whether a set with these group sizes is allowed."""
        return bool(((used_G >= self.low_G) & (used_G <= self.high_G)).all())


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Maximise f over sets of rows within a budget and bounds, given what is in already.

    Args:
        objective: f, see `make_objective`.
        budget: how much may be selected.
        bounds: floors and caps of groups; by default none.
        base_D: int32 (D,), how many rows that are in already have each feature; by default none.
        seed: orders rows of equal gain.
    """

    objective: Objective
    budget: Budget
    bounds: Bounds = field(default_factory=Bounds.none)
    base_D: I32 = None  # type: ignore[assignment]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.base_D is None:
            object.__setattr__(self, "base_D", self.objective.empty_counts())

    def start(self) -> Totals:
        """The sums before any row is selected."""
        used_G, f = np.zeros(len(self.bounds), np.int64), self.objective.value(self.base_D)
        return Totals(self.base_D, used_G, bonus=0, rows=0, tokens=0, f=f)

    def shared(self, now: Totals, blocks: int) -> Problem:
        """For one of `blocks` steps at the same time: each may use its part of what is left."""
        budget = self.budget
        if budget.tokens is not None:
            spare = (budget.tokens - now.tokens) // blocks
            budget = replace(budget, tokens=now.tokens + spare)
        return replace(self, budget=budget, bounds=self.bounds.shared(now.used_G, blocks))

    def of_block(self, block: Delta, now: Totals) -> Problem:
        """To select the rows of a block again, of those selected `now`, while the rest stays.

        As many rows as it has, or its tokens and those that the budget still has.
        """
        rows, tokens = self.budget.rows, self.budget.tokens
        return Problem(
            self.objective,
            Budget(
                None if rows is None else block.rows,
                None if tokens is None else tokens - now.tokens + block.tokens,
                self.budget.by_cost,
            ),
            self.bounds.left(now.used_G - block.used_G),
            now.counts_D - block.counts_D,
            self.seed,
        )
