"""The step that is repeated until f stalls: select a block again, given all the rest.

Every shard keeps a coverage set. One step takes the coverage set of a shard (or the weakest and the
most wanted rows of all shards, in a bounded pool) out of the counts and lets lazy greedy choose it
again from the block's rows, against the counts of everything else. Only counts travel, and the
pool. A step that does not raise f is not taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from mads_ray.arrays import F64, I32, I64, U64, Mask
from mads_ray.hashing import hash_words
from mads_ray.submodular import kernels
from mads_ray.submodular.certificate import PriceHistogram
from mads_ray.submodular.greedy import (
    SLACK,
    Bounds,
    Budget,
    block_of,
    group_sizes,
    lazy_greedy,
)
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.shards import HeldShard


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a step changes: counts (D,), group sizes (G,), the sums of bonuses, rows and tokens, and
    how many rows are new. Changes of disjoint blocks add up."""

    counts_D: I32
    used_G: I64
    bonus: int = 0
    rows: int = 0
    tokens: int = 0
    swaps: int = 0

    def __add__(self, other: Change) -> Change:
        return Change(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @staticmethod
    def none(objective: Objective, groups: int) -> Change:
        """No change."""
        return Change(objective.empty_counts(), np.zeros(groups, np.int64))

    @staticmethod
    def of(rows: FeatureRows, picks: I64, objective: Objective, groups: int) -> Change:
        """Putting the rows at `picks` in."""
        return Change(
            objective.counts(rows, picks),
            group_sizes(rows.groups_NT[picks], groups),
            int(rows.bonus_N[picks].sum()),
            len(picks),
            int(rows.tokens_N[picks].sum()),
            len(picks),
        )


def reselect(
    rows: FeatureRows,
    rank_N: I64,
    open_N: Mask,
    chosen_N: Mask,
    objective: Objective,
    counts_D: I32,
    used_G: I64,
    bounds: Bounds,
    budget: Budget,
    slack: int = SLACK,
) -> tuple[I64, Change]:
    """Choose a block's rows again; `counts_D` and `used_G` include those chosen so far.

    Returns the new choice (row indices) and the change it makes. Where the bounds leave greedy
    short of a budget in rows, the old choice stays.
    """
    old = np.flatnonzero(chosen_N)
    before = Change.of(rows, old, objective, len(bounds))
    new = lazy_greedy(
        rows,
        objective,
        budget,
        0,
        counts_D=counts_D - before.counts_D,
        limits=bounds.limits(budget, used_G - before.used_G),
        rank_N=rank_N,
        open_N=open_N,
        slack=slack,
    )
    if budget.rows is not None and len(new.picks) < budget.rows:
        return old, Change.none(objective, len(bounds))
    change = Change(
        new.counts_D - counts_D,
        bounds.used(rows.groups_NT[new.picks]) - before.used_G,
        int(rows.bonus_N[new.picks].sum()) - before.bonus,
        len(new.picks) - before.rows,
        int(rows.tokens_N[new.picks].sum()) - before.tokens,
        int((~chosen_N[new.picks]).sum()),
    )
    return new.picks, change


@dataclass(frozen=True, slots=True, eq=False)
class Offers:
    """Rows that shards put up for a pool, best first by (key, tie): what they are worth for their
    cost, or for rows to give up, minus that. `place_N2` int32: shard and row in it."""

    key_N: F64
    tie_N: U64
    place_N2: I32
    cost_N: I64

    def best(self, most: int) -> Offers:
        """The first `most` of them. Keys that are equal in float64 count as ties."""
        few, n = self, len(self.key_N)
        if 0 < most < n:  # sort only those that can win
            cut = np.partition(self.key_N, n - most)[n - most]
            few = self._take(np.flatnonzero(self.key_N >= cut))
        shard_N, row_N = few.place_N2.T
        return few._take(np.lexsort((row_N, shard_N, few.tie_N, -few.key_N))[:most])

    def thinned(self, most: int, turn: int) -> Offers:
        """So many of them by a hash of their ties, which is another one each turn."""
        if len(self.key_N) <= most:
            return self
        mixed = hash_words(self.tie_N, self.tie_N, turn)
        return self._take(np.sort(np.argsort(mixed, kind="stable")[:most]))

    def _take(self, index: I64) -> Offers:
        return Offers(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def merge(parts: Sequence[Offers], most: int) -> Offers:
        """The best of all parts, whatever their order."""
        names = [f.name for f in fields(Offers)]
        return Offers(*(np.concatenate([getattr(p, n) for p in parts]) for n in names)).best(most)


@dataclass(frozen=True, slots=True, eq=False)
class Appraisal:
    """What one pass over a block tells: rows to give up, rows wanted, and the histogram of all
    gains for the certificate."""

    weakest: Offers
    wanted: Offers
    histogram: PriceHistogram


def priced(
    held: HeldShard, open_N: Mask, objective: Objective, counts_D: I32, by_cost: bool
) -> tuple[I64, I64]:
    """Gain and cost of the open rows of a shard at the prices of `counts_D`."""
    block = block_of(held.rows(), held.rank_N, by_cost, open_N)
    prices_D, nothing = objective.prices(counts_D), np.zeros(len(open_N), np.bool_)
    gain_N, _ = kernels.appraise(block, objective.space, nothing, prices_D, prices_D)
    return gain_N[open_N], block.cost_N[open_N]


def appraise(
    rows: FeatureRows,
    places_N2: I32,
    ties_N: U64,
    open_N: Mask,
    chosen_N: Mask,
    objective: Objective,
    counts_D: I32,
    by_cost: bool,
    most: int,
    width: int,
) -> Appraisal:
    """Value a block's open rows at the prices of `counts_D`."""
    block = block_of(rows, np.empty(0, np.int64), by_cost, open_N)
    gain_N, loss_N = kernels.appraise(
        block, objective.space, chosen_N, objective.prices(counts_D), objective.losses(counts_D)
    )

    def offers(index: I64, worth_N: I64) -> Offers:
        key_N = worth_N[index] / block.cost_N[index]
        return Offers(key_N, ties_N[index], places_N2[index], block.cost_N[index]).best(most)

    every = np.flatnonzero(open_N)
    return Appraisal(
        offers(np.flatnonzero(open_N & chosen_N), -loss_N),
        offers(np.flatnonzero(open_N & ~chosen_N), gain_N),
        PriceHistogram.of(gain_N[every], block.cost_N[every], width),
    )
