"""Select a set of a depth: every shard selects in turn, then rows of all shards meet in a buffer.

The driver holds counts and f, nothing that grows with the corpus. Waves and buffers depend on the
corpus and the budget, never on the cluster, so the result is the same on any.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mads_ray import runlog
from mads_ray.arrays import I32, I64, Mask
from mads_ray.config import SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.hashing import RandomStream, exchange_start
from mads_ray.pipeline.runtime.prometheus import observe
from mads_ray.pipeline.runtime.tasks import fetch, remote
from mads_ray.pipeline.select.checkpoint import Checkpoint
from mads_ray.pipeline.select.random_sets import candidates, hash_thresholds
from mads_ray.pipeline.select.state import ExchangeState
from mads_ray.pipeline.select.workers import BESIDE, SelectionWorkers, ids_of
from mads_ray.submodular.certificate import bin_width, upper_bound
from mads_ray.submodular.exchange import Appraisal, reselect
from mads_ray.submodular.greedy import EXACT, SLACK, first_fitting
from mads_ray.submodular.objective import UNIT
from mads_ray.submodular.problem import Bounds, Budget, Problem
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.totals import Delta, Totals

log = logging.getLogger(__name__)

WAVES = 32  # a wave is 1/32 of the shards: more at once would all fill the same gaps
LEAST_BUFFER, MOST_BUFFER = 4096, 16_384
SMALL = 2048
WIDER = 2
PASS_STALL = 0.01  # a pass over all shards pays while it brings 1% of what was won so far
BUFFERED_PASS_STALL = 0.03

# Steps in their order, under the names that checkpoints store.
_START, _PASSES, _BUFFERS, _EXACT_BUFFERS = "start", "passes", "pools", "exact pools"


@dataclass(slots=True, eq=False)
class Exchange:
    """The selection of one set, and how it came about. `rounds` counts passes and buffers."""

    workers: SelectionWorkers
    depth: int
    problem: Problem
    config: SelectionConfig
    now: Totals
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    left: Sequence[str] = (_START, _PASSES)  # steps to come, the one under way first
    waves: int = 0
    started: int = 0  # f of the random start
    rounds: int = 0
    bound: int | None = None  # on f of the optimum
    clock: float = 0.0

    def run(self) -> Exchange:
        """Start at random, then repeat rounds until f stalls. Goes on where a stored one was."""
        self.clock = time.monotonic()
        if self.left[:1] == (_START,):
            self._begin()
            self.left = self.left[1:]
            self.waves = min(WAVES, sum(map(len, self.workers.shards)))
        while self.left and self.rounds < self.config.max_rounds:
            before, self.rounds = self.now.f, self.rounds + 1
            step = self.left[0]
            if step == _PASSES:
                self._pass()
                # Buffers are quicker where they hold a good part of the set.
                buffered = 4 * self.buffer_rows() >= self.now.rows
                stall = BUFFERED_PASS_STALL if buffered else PASS_STALL
            else:
                self._exchange(SLACK if step == _BUFFERS else EXACT)
                stall = self.config.tolerance * (3 if step == _BUFFERS else 1)
            if self.now.f - before <= stall * (self.now.f - self.started):
                self.left = self._after(step)
            self.checkpoint.save(self.state(), self.workers)
        return self

    def _after(self, step: str) -> Sequence[str]:
        if step != _PASSES:
            return self.left[1:]
        # A small set fits a buffer: there the slack is all that lies between it and greedy.
        return (_EXACT_BUFFERS,) if self.now.rows <= SMALL else (_BUFFERS, _EXACT_BUFFERS)

    def state(self) -> ExchangeState:
        """All that goes on from here depends on, beside the depths that the workers have."""
        return ExchangeState(
            self.depth,
            self.problem.budget,
            self.problem.bounds.low_G,
            self.now,
            self.left,
            self.waves,
            self.rounds,
            self.started,
            self.bound,
        )

    def restored(self, state: ExchangeState) -> Exchange:
        """The same exchange where a state left it; the workers have its depths already."""
        bounds = replace(self.problem.bounds, low_G=state.low_G)
        return replace(
            self,
            depth=state.depth,
            problem=replace(self.problem, budget=state.budget, bounds=bounds),
            now=state.totals,
            left=state.left,
            waves=state.waves,
            rounds=state.rounds,
            started=state.started,
            bound=state.bound,
        )

    def resumed(self) -> Exchange:
        """Where the checkpoint left the core set, in the workers too; else as it is."""
        state = self.checkpoint.restore(self.workers)
        return self if state is None else self.restored(state)

    def inner(self) -> Exchange:
        """The selection of half of this set; bounds hold for the whole only."""
        budget = (
            Budget(tokens=max(1, self.now.tokens // 2))
            if self.problem.budget.by_cost
            else Budget(rows=self.now.rows // 2)
        )
        problem = replace(self.problem, budget=budget, bounds=Bounds.none())
        how = (self.workers, self.depth + 1, problem, self.config)
        return Exchange(*how, problem.start(), self.checkpoint)

    def _begin(self) -> None:
        stream = (self.problem.seed, exchange_start(self.depth))
        groups, budget = len(self.problem.bounds), self.problem.budget
        if groups:
            places = self._fitting(stream)
            delta = self.workers.sum("begin_at", self.depth, places, groups)
        else:
            cost = budget.tokens if budget.tokens is not None else budget.rows
            costs, by_cost = np.array([cost], np.int64), budget.by_cost
            thresholds = hash_thresholds(self.workers, self.depth, [stream], costs, by_cost)
            delta = self.workers.sum("begin", self.depth, stream, thresholds[0, 0])
        self.now = self.now.plus(delta, self.problem.objective)
        self.started = self.now.f
        self._tell("start at random", 0)

    def _fitting(self, stream: RandomStream) -> I32:
        """Places of a random set within the bounds. Groups are global, so the driver sees a hash,
        a place and the groups of every example here (28 bytes), and nowhere else."""
        parts = self.workers.ask(candidates, stream)
        hashes, tokens, groups, places = (np.concatenate(x) for x in zip(*parts, strict=True))
        bounds = within_reach(self.problem.bounds, groups)
        self.problem = replace(self.problem, bounds=bounds)
        picks = first_fitting(hashes, tokens, groups, bounds, self.problem.budget)
        require_met(bounds, groups[picks])
        result: I32 = places[picks]
        return result

    # --- a pass over all shards ---

    def _pass(self) -> None:
        """Every shard selects its rows again, a wave of shards at a time."""
        waves, shards = self.waves, sorted(n for numbers in self.workers.shards for n in numbers)
        swaps = at = 0
        queue = [shards[w::waves] for w in range(waves)]
        accepted: dict[int, bool] = {}
        while at < len(queue):
            wave = queue[at]
            problem = self.problem.shared(self.now, len(wave))
            delta, asked = self.workers.reselect(
                self.depth, wave, accepted, problem.budget, problem.bounds, self.now
            )
            after = self.now.plus(delta, self.problem.objective)
            better = after.f > self.now.f
            accepted |= dict.fromkeys(asked, better)
            if better:
                self.now, swaps = after, swaps + delta.swaps
            elif len(wave) > 1:  # they got in each other's way: fewer at a time from here on
                rest = [s for w in queue[at + 1 :] for s in w]
                waves = min(len(shards), 2 * waves)
                size = max(1, len(shards) // waves)
                again = wave + rest
                queue = [again[i : i + size] for i in range(0, len(again), size)]
                at = -1
            at += 1
        self.workers.commit(accepted)
        self.waves = waves
        self._tell("shards", swaps)

    # --- exchange through a buffer ---

    def _exchange(self, slack: int) -> None:
        """The weakest rows of all shards compete with the most wanted ones in one place."""
        most = self.buffer_rows()
        seen = self.appraise(WIDER * most)
        # Near-duplicates are wanted alike: a part of more rows, another one each round, sees more.
        weakest = seen.weakest.best(WIDER * most // 2).thinned(most // 2, self.rounds)
        rest = most - len(weakest.key_N)
        wanted = seen.wanted.best(WIDER * rest).thinned(rest, self.rounds)
        buffer = np.concatenate([weakest.place_N2, wanted.place_N2])
        parts, places = self.workers.rows_at(buffer, self.depth)
        leaving = _member(places, weakest.place_N2)
        task = remote(_compete, BESIDE)
        picks, delta = fetch(task.remote(self.problem, self.now, leaving, slack, *parts))
        after = self.now.plus(delta, self.problem.objective)
        if after.f > self.now.f:
            self.now = after
            self.workers.ask("move", self.depth, places[leaving], places[picks])
            self._tell("exchange", delta.swaps)
        else:
            self._tell("exchange", 0)

    def buffer_rows(self) -> int:
        """Rows of a buffer: a quarter of the set, within [4096, 16384] and the configured most; the
        most where the set is small, because there each row matters."""
        if self.now.rows <= SMALL:
            return self.config.buffer_rows
        return min(self.config.buffer_rows, MOST_BUFFER, max(LEAST_BUFFER, self.now.rows // 4))

    def appraise(self, most: int) -> Appraisal:
        """Offers of all shards; tightens the bound on the optimum on the way."""
        problem, budget, counts_D = self.problem, self.problem.budget, self.now.counts_D
        cost = self.now.tokens if budget.by_cost else self.now.rows
        width = bin_width(problem.objective, counts_D, cost)
        how = (self.depth, counts_D, budget.by_cost, most, width)
        seen: Appraisal = self.workers.sum("appraise", *how)
        limit = budget.tokens if budget.tokens is not None else self.now.rows
        bound = upper_bound(problem.objective, counts_D, problem.base_D, seen.histogram, limit)
        self.bound = bound if self.bound is None else min(self.bound, bound)
        return seen

    def lift_at_least(self) -> float | None:
        """(f - random) / (bound - random), where random is the start."""
        if self.bound is None or self.bound <= self.started:
            return None
        return (self.now.f - self.started) / (self.bound - self.started)

    def _tell(self, what: str, swaps: int) -> None:
        lift = self.lift_at_least()
        f = (self.now.f - self.problem.objective.value(self.problem.base_D)) / UNIT
        seconds = time.monotonic() - self.clock
        runlog.write(
            "round",
            level=self.depth,
            round=self.rounds,
            what=what,
            rows=self.now.rows,
            f=f,
            lift_at_least=lift,
            swaps=swaps,
            seconds=seconds,
        )
        if self.depth:
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


def within_reach(bounds: Bounds, groups_NT: I32) -> Bounds:
    """Floors no higher than the groups of all candidates are large."""
    return replace(bounds, low_G=np.minimum(bounds.low_G, bounds.used(groups_NT)))


def require_met(bounds: Bounds, groups_KT: I32) -> None:
    """Raise ConfigError unless rows of these groups keep the bounds."""
    if not bounds.met(bounds.used(groups_KT)):
        raise ConfigError(
            "the floors need more examples than the budget has, or those of clusters and of "
            "sources cannot be met together; lower a floor or raise the budget"
        )


def _compete(
    problem: Problem, now: Totals, leaving_N: Mask, slack: int, *parts: FeatureRows
) -> tuple[I64, Delta]:
    """Select again from a buffer; `leaving_N` tells which of its rows are selected so far."""
    rows = FeatureRows.concat(parts)
    return reselect(rows, leaving_N, problem, now, rank_N=rows.tie_rank(problem.seed), slack=slack)


def _member(places_N2: I32, of_K2: I32) -> Mask:
    """Which places are among `of_K2`."""
    return np.isin(ids_of(places_N2), ids_of(of_K2))
