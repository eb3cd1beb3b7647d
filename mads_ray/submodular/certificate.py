"""How close to the optimum a core set is, by weak duality with a price for every feature.

It is quick, and tells the exchange rounds how far they are; `tree_bound` certifies what they end
with. For any prices pi >= 0 and any lambda >= 0, with cost_i = 1 (or tokens of i) and budget K (or
T),

  f(OPT) <= sum_j max_k [w_j phi(k) - pi_j k] + lambda K + sum_i max(0, q_i + sum_{j in i} pi_j
            - lambda cost_i)

With pi the price of one more example at the core set's counts c, the first maximum is at k = c, and
the last sum is over the very gains that exchange rounds compute anyway. It adds over shards as a
histogram, and at the edge of a bin it is exact: nothing is gathered, and all of it is in integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mads_ray.arrays import I32, I64
from mads_ray.submodular.objective import Objective

_BINS = 16_384
_SHIFT = 8  # gains are rounded up to multiples of 2^8, so that sums over 10^9 rows fit int64


@dataclass(frozen=True, slots=True, eq=False)
class PriceHistogram:
    """Rows by gain per cost in bins of `width`: sum of their costs and of their gains (>> 8)."""

    width: int
    cost_B: I64
    gain_B: I64

    @classmethod
    def of(cls, gain_N: I64, cost_N: I64, width: int) -> PriceHistogram:
        """Histogram of some rows."""
        bin_N = np.minimum(gain_N // (cost_N * width), _BINS - 1)
        cost_B, gain_B = np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64)
        np.add.at(cost_B, bin_N, cost_N)
        np.add.at(gain_B, bin_N, (gain_N + (2**_SHIFT - 1)) >> _SHIFT)
        return cls(width, cost_B, gain_B)

    def __add__(self, other: PriceHistogram) -> PriceHistogram:
        assert self.width == other.width
        return PriceHistogram(self.width, self.cost_B + other.cost_B, self.gain_B + other.gain_B)


def bin_width(objective: Objective, counts_D: I32, cost: int) -> int:
    """Bins reach to four times what a selected row's features are worth for its cost."""
    worth = int((objective.prices(counts_D) * counts_D).sum())
    return max(1, 4 * worth // (max(1, cost) * _BINS))


def upper_bound(
    objective: Objective, counts_D: I32, base_D: I32, histogram: PriceHistogram, budget: int
) -> int:
    """A bound on f(base + OPT), in units of 2^-28, from the gains at the prices of `counts_D`.

    `base_D`: counts of what is in from the start. `budget` in the unit of the costs.
    """
    prices_D = objective.prices(counts_D)
    constant = objective.value(counts_D) - int((prices_D * (counts_D - base_D)).sum())
    above_cost = np.cumsum(histogram.cost_B[::-1])[::-1]
    above_gain = np.cumsum(histogram.gain_B[::-1])[::-1]
    best = None
    for b in range(_BINS):
        price = b * histogram.width
        excess = (int(above_gain[b]) << _SHIFT) - price * int(above_cost[b])
        bound = constant + price * budget + excess
        best = bound if best is None else min(best, bound)
    assert best is not None
    return best
