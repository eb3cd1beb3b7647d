"""A set of examples as the driver knows it: sums over its rows, but none of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mads_ray.arrays import I32, I64
from mads_ray.submodular.exchange import Change
from mads_ray.submodular.objective import Objective


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Counts of its features and groups, bonus, rows and tokens. `f` includes the base, in units of
    2^-28."""

    counts_D: I32
    used_G: I64
    bonus: int
    rows: int
    tokens: int
    f: int

    @classmethod
    def nothing(cls, base_D: I32, groups: int, objective: Objective) -> Chosen:
        """No row beside those of the base."""
        return cls(base_D, np.zeros(groups, np.int64), 0, 0, 0, objective.value(base_D))

    def changed(self, change: Change, objective: Objective) -> Chosen:
        """After a step."""
        counts_D = self.counts_D + change.counts_D
        bonus = self.bonus + change.bonus
        return Chosen(
            counts_D,
            self.used_G + change.used_G,
            bonus,
            self.rows + change.rows,
            self.tokens + change.tokens,
            objective.value(counts_D) + bonus,
        )
