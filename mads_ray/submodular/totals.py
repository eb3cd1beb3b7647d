"""Sums over the selected rows, and how a step changes them: all that the driver knows of rows."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from mads_ray.arrays import I32, I64
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.rows import FeatureRows


def group_sizes(groups_NT: I32, groups: int) -> I64:
    """Rows in each of the groups, int64 (G,); none where nobody asks for groups."""
    if not groups:
        return np.zeros(0, np.int64)
    return np.bincount(groups_NT.ravel(), minlength=groups).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What a step changes: counts (D,), group sizes (G,), the sums of bonuses, rows and tokens, and
    how many rows are new. Deltas of disjoint blocks add up."""

    counts_D: I32
    used_G: I64
    bonus: int = 0
    rows: int = 0
    tokens: int = 0
    swaps: int = 0

    def __add__(self, other: Delta) -> Delta:
        return Delta(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @staticmethod
    def none(objective: Objective, groups: int) -> Delta:
        """No change."""
        return Delta(objective.empty_counts(), np.zeros(groups, np.int64))

    @staticmethod
    def of(rows: FeatureRows, picks: I64, objective: Objective, groups: int) -> Delta:
        """Selecting the rows at `picks`."""
        return Delta(
            objective.counts(rows, picks),
            group_sizes(rows.groups_NT[picks], groups),
            int(rows.bonus_N[picks].sum()),
            len(picks),
            int(rows.tokens_N[picks].sum()),
            len(picks),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """Sums over the selected rows: counts (D,), group sizes (G,), bonuses, rows and tokens.

    `counts_D` and `f` hold what is in from the start, too; `f` is in units of 2^-28.
    """

    counts_D: I32
    used_G: I64
    bonus: int
    rows: int
    tokens: int
    f: int

    def plus(self, delta: Delta, objective: Objective) -> Totals:
        """After a step."""
        counts_D = self.counts_D + delta.counts_D
        bonus = self.bonus + delta.bonus
        return Totals(
            counts_D,
            self.used_G + delta.used_G,
            bonus,
            self.rows + delta.rows,
            self.tokens + delta.tokens,
            objective.value(counts_D) + bonus,
        )
