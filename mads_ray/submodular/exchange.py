"""The step that is repeated until f stalls: select a block again, while the rest stays.

A block is a shard, or the buffer: a bounded number of rows of all shards, the selected ones that
matter least and the others that would add most. A step takes the selected rows of its block out of
the counts, and lazy greedy selects as many from the block again. A step that does not raise f is
not taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from mads_ray.arrays import F64, I32, I64, U64, Mask
from mads_ray.hashing import hash_words
from mads_ray.submodular import kernels
from mads_ray.submodular.certificate import PriceHistogram
from mads_ray.submodular.greedy import SLACK, block_of, lazy_greedy
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.problem import Problem
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.shards import LoadedShard
from mads_ray.submodular.totals import Delta, Totals


def reselect(
    rows: FeatureRows,
    selected_N: Mask,
    problem: Problem,
    now: Totals,
    *,
    rank_N: I64 | None = None,
    open_N: Mask | None = None,
    slack: int = SLACK,
) -> tuple[I64, Delta]:
    """Select a block's rows again; `now` sums over all selected rows, those of the block included.

    Returns the rows selected now (numbers in the block, K) and what that changes. Where the bounds
    leave greedy short of a budget in rows, nothing changes. The rest is as in `lazy_greedy`.
    """
    objective, groups = problem.objective, len(problem.bounds)
    old = np.flatnonzero(selected_N)
    before = Delta.of(rows, old, objective, groups)
    again = problem.of_block(before, now)
    new = lazy_greedy(rows, again, rank_N=rank_N, open_N=open_N, slack=slack)
    if again.budget.rows is not None and len(new.picks) < again.budget.rows:
        return old, Delta.none(objective, groups)
    delta = Delta(
        new.counts_D - now.counts_D,
        problem.bounds.used(rows.groups_NT[new.picks]) - before.used_G,
        int(rows.bonus_N[new.picks].sum()) - before.bonus,
        len(new.picks) - before.rows,
        int(rows.tokens_N[new.picks].sum()) - before.tokens,
        int((~selected_N[new.picks]).sum()),
    )
    return new.picks, delta


@dataclass(frozen=True, slots=True, eq=False)
class Offers:
    """Rows that shards offer to the buffer, best first by (key, tie).

    `key_N`: gain for the cost, or for rows to give up, minus the loss for the cost. `tie_N`: hash
    that orders equal keys. `place_N2` int32: shard, and row in it. `cost_N`: 1, or tokens.
    """

    key_N: F64
    tie_N: U64
    place_N2: I32
    cost_N: I64

    def best(self, most: int) -> Offers:
        """The first `most` of them. Keys that are equal in float64 count as ties."""
        few, n = self, len(self.key_N)
        if 0 < most < n:  # sort only those that can win
            least = np.partition(self.key_N, n - most)[n - most]
            few = self._take(np.flatnonzero(self.key_N >= least))
        shard_N, row_N = few.place_N2.T
        return few._take(np.lexsort((row_N, shard_N, few.tie_N, -few.key_N))[:most])

    def thinned(self, most: int, turn: int) -> Offers:
        """`most` of them at random: by a hash of their ties that differs from turn to turn."""
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
    """What one pass over rows tells: at most `most` selected rows to give up, as many other rows
    that are wanted, and the histogram of all gains for the certificate. Appraisals add up."""

    weakest: Offers
    wanted: Offers
    histogram: PriceHistogram
    most: int

    @staticmethod
    def merge(parts: Sequence[Appraisal]) -> Appraisal:
        """The best offers of all parts, and the sum of their histograms."""
        most, histogram = parts[0].most, parts[0].histogram
        for part in parts[1:]:
            histogram = histogram + part.histogram
        weakest = Offers.merge([p.weakest for p in parts], most)
        return Appraisal(weakest, Offers.merge([p.wanted for p in parts], most), histogram, most)

    def __add__(self, other: Appraisal) -> Appraisal:
        return Appraisal.merge([self, other])


def priced(
    shard: LoadedShard, open_N: Mask, objective: Objective, prices_D: I64, by_cost: bool
) -> tuple[I64, I64]:
    """Gain and cost of the open rows of a shard at some prices of the features."""
    block = block_of(shard.rows(), shard.rank_N, by_cost, open_N)
    nothing = np.zeros(len(open_N), np.bool_)
    gain_N, _ = kernels.appraise(block, objective.space, nothing, prices_D, prices_D)
    return gain_N[open_N], block.cost_N[open_N]


def appraise(
    shard: LoadedShard,
    depth: int,
    objective: Objective,
    counts_D: I32,
    by_cost: bool,
    most: int,
    width: int,
) -> Appraisal:
    """Value a shard's candidates of a depth at the prices of `counts_D`; bins of `width`."""
    open_N, selected_N = shard.candidates(depth), shard.selected(depth)
    block = block_of(shard.rows(), shard.rank_N, by_cost, open_N)
    gain_N, loss_N = kernels.appraise(
        block, objective.space, selected_N, objective.prices(counts_D), objective.losses(counts_D)
    )
    places_N2 = shard.places()

    def offers(index: I64, worth_N: I64) -> Offers:
        cost_N = block.cost_N[index]
        key_N = worth_N[index] / cost_N
        return Offers(key_N, shard.ties_N[index], places_N2[index], cost_N).best(most)

    every = np.flatnonzero(open_N)
    return Appraisal(
        offers(np.flatnonzero(open_N & selected_N), -loss_N),
        offers(np.flatnonzero(open_N & ~selected_N), gain_N),
        PriceHistogram.of(gain_N[every], block.cost_N[every], width),
        most,
    )
