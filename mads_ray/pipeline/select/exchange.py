"""Choose a set of a level: shard coverage sets in waves, then exchange through a bounded pool.

The driver holds counts and f, nothing that grows with the corpus. Waves and pools are fixed by the
corpus and the budget, never by the cluster, so the result is the same on any.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from mads_ray import runlog
from mads_ray.config import SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.pipeline.runtime.prometheus import observe
from mads_ray.pipeline.runtime.tasks import fetch, remote
from mads_ray.pipeline.select.checkpoint import Rounds
from mads_ray.pipeline.select.random_sets import candidates, find_cuts
from mads_ray.pipeline.select.state import Chosen
from mads_ray.pipeline.select.worker import merge_appraisals
from mads_ray.pipeline.select.workers import BESIDE, HolderPool, ids_of
from mads_ray.submodular.certificate import bin_width, upper_bound
from mads_ray.submodular.exchange import Appraisal, Change, reselect
from mads_ray.submodular.greedy import EXACT, SLACK, Bounds, Budget, Mask, first_fitting
from mads_ray.submodular.objective import I32, I64, UNIT, Objective
from mads_ray.submodular.rows import FeatureRows

log = logging.getLogger("mads_ray")

WAVES = 32  # a wave is 1/32 of the shards: more at once would all fill the same gaps
LEAST_POOL, MOST_POOL = 4096, 16_384
SMALL = 2048
WIDER = 2
PASS_STALL = 0.01  # a pass over all shards pays while it brings 1% of what was won so far
POOLED_PASS_STALL = 0.03


@dataclass(slots=True, eq=False)
class Exchange:
    """One level's choice and how it came about. `rounds` counts passes and pools."""

    pool: HolderPool
    level: int
    budget: Budget
    base_D: I32
    bounds: Bounds
    config: SelectionConfig
    seed: int
    now: Chosen
    kept: Rounds = field(default_factory=Rounds)
    left: Sequence[str] = ("start", "passes")  # steps to come, the one under way first
    waves: int = 0
    started: int = 0  # f of the random start
    rounds: int = 0
    bound: int | None = None  # on f of the optimum
    clock: float = 0.0

    def run(self) -> Exchange:
        """Start at random, then repeat rounds until f stalls. Goes on where a stored one was."""
        self.clock = time.monotonic()
        if self.left[:1] == ("start",):
            self._begin()
            self.left = self.left[1:]
            self.waves = min(WAVES, sum(map(len, self.pool.shards)))
        while self.left and self.rounds < self.config.max_rounds:
            before, self.rounds = self.now.f, self.rounds + 1
            step = self.left[0]
            if step == "passes":
                self._pass()
                # Pools are quicker where they hold a good part of the set.
                pooled = 4 * self.pool_rows() >= self.now.rows
                stall = POOLED_PASS_STALL if pooled else PASS_STALL
            else:
                self._exchange(SLACK if step == "pools" else EXACT)
                stall = self.config.tolerance * (3 if step == "pools" else 1)
            if self.now.f - before <= stall * (self.now.f - self.started):
                self.left = self._after(step)
            self.kept.keep(self)
        return self

    def _after(self, step: str) -> Sequence[str]:
        if step != "passes":
            return self.left[1:]
        # A small set fits a pool: there the slack is all that lies between it and greedy.
        return ("exact pools",) if self.now.rows <= SMALL else ("pools", "exact pools")

    def within(self) -> Exchange:
        """The choice of a smaller set out of this one; bounds hold for the whole only."""
        budget = (
            Budget(tokens=max(1, self.now.tokens // 2))
            if self.budget.by_cost
            else Budget(rows=self.now.rows // 2)
        )
        nothing = Chosen.nothing(self.base_D, 0, self.pool.objective)
        how = (self.pool, self.level + 1, budget, self.base_D, Bounds.none())
        return Exchange(*how, self.config, self.seed, nothing, self.kept)

    def _begin(self) -> None:
        stream = (self.seed, 2**33 + self.level)
        groups = len(self.bounds)
        if groups:
            places = self._fitting(stream)
            change = self.pool.total("begin_at", self.level, places, groups)
        else:
            cost = self.budget.tokens if self.budget.tokens is not None else self.budget.rows
            costs = np.array([cost], np.int64)
            cuts = find_cuts(self.pool, self.level, [stream], costs, self.budget.by_cost)
            change = self.pool.total("begin", self.level, stream, cuts[0, 0], groups)
        self.now = self.now.changed(change, self.pool.objective)
        self.started = self.now.f
        self._tell("start at random", 0)

    def _fitting(self, stream: tuple[int, int]) -> I32:
        """Places of a random set within the bounds. Groups are global, so the driver sees a hash,
        a place and the groups of every example here (28 bytes), and nowhere else."""
        parts = self.pool.each(candidates, stream)
        hashes, tokens, groups, places = (np.concatenate(x) for x in zip(*parts, strict=True))
        available = self.bounds.used(groups)
        low = np.minimum(self.bounds.low_G, available)
        self.bounds = replace(self.bounds, low_G=low)
        picks = first_fitting(hashes, tokens, groups, self.bounds, self.budget)
        require_met(self.bounds, groups[picks])
        result: I32 = places[picks]
        return result

    # --- a pass over all shards ---

    def _pass(self) -> None:
        """Every shard selects its coverage set again, a wave of shards at a time."""
        waves, shards = self.waves, sorted(s for held in self.pool.shards for s in held)
        swaps = at = 0
        queue = [shards[w::waves] for w in range(waves)]
        verdicts: dict[int, bool] = {}
        while at < len(queue):
            wave = queue[at]
            change, asked = self.pool.reselect(
                self.level,
                wave,
                verdicts,
                self.now.counts_D,
                self.now.used_G,
                self.bounds.shared(self.now.used_G, len(wave)),
                self.budget.by_cost,
                self._spare_tokens() // max(1, len(wave)),
            )
            after = self.now.changed(change, self.pool.objective)
            keep = after.f > self.now.f
            verdicts |= dict.fromkeys(asked, keep)
            if keep:
                self.now, swaps = after, swaps + change.swaps
            elif len(wave) > 1:  # they got in each other's way: fewer at a time from here on
                rest = [s for w in queue[at + 1 :] for s in w]
                waves = min(len(shards), 2 * waves)
                size = max(1, len(shards) // waves)
                again = wave + rest
                queue = [again[i : i + size] for i in range(0, len(again), size)]
                at = -1
            at += 1
        self.pool.settle(verdicts)
        self.waves = waves
        self._tell("shards", swaps)

    def _spare_tokens(self) -> int:
        return 0 if self.budget.tokens is None else self.budget.tokens - self.now.tokens

    # --- exchange through a pool ---

    def _exchange(self, slack: int) -> None:
        """The weakest rows of all shards compete with the most wanted ones in one place."""
        most = self.pool_rows()
        seen = self.appraise(WIDER * most)
        # Near-duplicates are wanted alike: a part of more rows, another one each round, sees more.
        weakest = seen.weakest.best(WIDER * most // 2).thinned(most // 2, self.rounds)
        rest = most - len(weakest.key_N)
        wanted = seen.wanted.best(WIDER * rest).thinned(rest, self.rounds)
        pooled = np.concatenate([weakest.place_N2, wanted.place_N2])
        parts, places = self.pool.rows_at(pooled, self.level)
        leaving = _member(places, weakest.place_N2)
        task = remote(_compete, BESIDE)
        keep, change = fetch(
            task.remote(
                self.pool.objective,
                self.budget,
                self.bounds,
                self.seed,
                self.now.counts_D,
                self.now.used_G,
                self._spare_tokens(),
                leaving,
                slack,
                *parts,
            )
        )
        after = self.now.changed(change, self.pool.objective)
        if after.f > self.now.f:
            self.now = after
            self.pool.all("move", self.level, places[leaving], places[keep])
            self._tell("exchange", change.swaps)
        else:
            self._tell("exchange", 0)

    def pool_rows(self) -> int:
        """Rows of a pool: a quarter of the set, within [4096, 16384] and `buffer_rows`; as many as
        there may be where the set is small, because each of its rows matters."""
        if self.now.rows <= SMALL:
            return self.config.buffer_rows
        return min(self.config.buffer_rows, MOST_POOL, max(LEAST_POOL, self.now.rows // 4))

    def appraise(self, most: int) -> Appraisal:
        """Offers of all shards; tightens the bound on the optimum on the way."""
        cost = self.now.tokens if self.budget.by_cost else self.now.rows
        width = bin_width(self.pool.objective, self.now.counts_D, cost)
        by_cost = self.budget.by_cost
        parts = self.pool.stream("appraise", self.level, self.now.counts_D, by_cost, most, width)
        seen: Appraisal = reduce(lambda a, b: merge_appraisals([a, b], most), parts)
        limit = self.budget.tokens if self.budget.tokens is not None else self.now.rows
        bound = upper_bound(
            self.pool.objective, self.now.counts_D, self.base_D, seen.histogram, limit
        )
        self.bound = bound if self.bound is None else min(self.bound, bound)
        return seen

    def lift_at_least(self) -> float | None:
        """(f - random) / (bound - random), where random is the start."""
        if self.bound is None or self.bound <= self.started:
            return None
        return (self.now.f - self.started) / (self.bound - self.started)

    def _tell(self, what: str, swaps: int) -> None:
        lift = self.lift_at_least()
        f = (self.now.f - self.pool.objective.value(self.base_D)) / UNIT
        seconds = time.monotonic() - self.clock
        runlog.write(
            "round",
            level=self.level,
            round=self.rounds,
            what=what,
            rows=self.now.rows,
            f=f,
            lift_at_least=lift,
            swaps=swaps,
            seconds=seconds,
        )
        if self.level:
            return  # smaller sets only rank the core set
        observe("mads_ray_exchange_round", self.rounds)
        observe("mads_ray_f", f)
        observe("mads_ray_lift_at_least", lift)
        above = self.now.f / max(1, self.started) - 1
        log.info(
            "select: round %d, %s: f %s, %.2f%% above random, lift %s, %s swaps, %.1f s",
            self.rounds,
            what,
            f"{self.now.f / UNIT:,.0f}",
            100 * above,
            "not bounded yet" if lift is None else f">= {lift:.3f}",
            f"{swaps:,}",
            seconds,
        )


def require_met(bounds: Bounds, groups_KT: I32) -> None:
    """Raise ConfigError unless rows of these groups keep the bounds."""
    if not bounds.met(bounds.used(groups_KT)):
        raise ConfigError(
            "the floors need more examples than the budget has, or those of clusters and of "
            "sources cannot be met together; lower a floor or raise the budget"
        )


def _compete(
    objective: Objective,
    budget: Budget,
    bounds: Bounds,
    seed: int,
    counts_D: I32,
    used_G: I64,
    spare_tokens: int,
    leaving_N: Mask,
    slack: int,
    *parts: FeatureRows,
) -> tuple[I64, Change]:
    """Select again from a pool; `leaving_N` tells which of its rows are in so far."""
    rows = FeatureRows.concat(parts)
    own = (
        Budget(tokens=int(rows.tokens_N[leaving_N].sum()) + spare_tokens)
        if budget.by_cost
        else Budget(rows=int(leaving_N.sum()))
    )
    every = np.ones(len(rows), np.bool_)
    rank_N = rows.tie_rank(seed)
    return reselect(rows, rank_N, every, leaving_N, objective, counts_D, used_G, bounds, own, slack)


def _member(places_N2: I32, of_K2: I32) -> Mask:
    """Which places are among `of_K2`."""
    return np.isin(ids_of(places_N2), ids_of(of_K2))
