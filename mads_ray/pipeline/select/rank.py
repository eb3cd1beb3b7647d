"""Greedy order of the selected rows, so that every prefix is a good core set of its size.

Lazy greedy orders a set of at most 8192 rows. From a larger one an exchange selects half, and half
of that, until so few are left. These come first. The rest of each half follows in bounded pieces:
rows with the largest gains first, each piece in greedy order. Gains are exact, so they add up to f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mads_ray.arrays import I32, I64
from mads_ray.pipeline.runtime.tasks import fetch, remote
from mads_ray.pipeline.select.exchange import Exchange, require_met, within_reach
from mads_ray.pipeline.select.workers import BESIDE, SelectionWorkers, order_of
from mads_ray.submodular.exchange import Offers, priced
from mads_ray.submodular.greedy import SLACK, budgeted_greedy, in_order, lazy_greedy
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.problem import Bounds, Budget, Problem
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.shards import LoadedShard

AT_ONCE = 8192
PIECE = 4096
PREFIXES = (0.01, 0.02, 0.05, 0.10)  # of the examples: the budgets whose lift is reported
_CURVE_POINTS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A core set in its order.

    `places_K2` int32: shard and row of each pick. `gains_K` int64, in units of 2^-28. `marks_M`:
    sizes of some prefixes, the last of them whole. `counts_MD` int32: counts after each of these.
    """

    places_K2: I32
    gains_K: I64
    tokens_K: I32
    marks_M: I64
    counts_MD: I32


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A stretch of the order. `index`: its rows among those given, in order. `counts_MD`: counts at
    the marks within it, `counts_D` at its end."""

    index: I64
    gains: I64
    tokens: I32
    counts_D: I32
    counts_MD: I32


def curve_marks(picked: int, examples: int) -> I64:
    """Sizes of the prefixes that are looked at: a dozen, and 1, 2, 5 and 10% of the examples."""
    curve = np.geomspace(max(1, picked / 50), max(1, picked), _CURVE_POINTS).round()
    shares = [int(p * examples + 1e-9) for p in PREFIXES]
    marks = {*curve.astype(int).tolist(), *(s for s in shares if 0 < s < picked)}
    return np.array(sorted(marks) if picked else [], np.int64)


def exact_order(workers: SelectionWorkers, places_N2: I32, problem: Problem) -> Ranked:
    """Lazy greedy over all candidates in one place: the result does not depend on the shards."""
    parts, order = workers.rows_at(places_N2)
    task = remote(_greedy, BESIDE)
    piece, marks = fetch(task.remote(problem, len(places_N2), *parts))
    return Ranked(order[piece.index], piece.gains, piece.tokens, marks, piece.counts_MD)


def rank(chosen: Exchange, examples: int) -> Ranked:
    """Order what an exchange selected at depth 0."""
    workers, problem, inner = chosen.workers, chosen.problem, chosen
    if chosen.now.rows > AT_ONCE:
        workers.ask("narrow", chosen.config.scratch)
        state = chosen.checkpoint.restore_inner(workers)
        inner = chosen if state is None else chosen.inner().restored(state).run()
    while inner.now.rows > AT_ONCE:
        inner = inner.inner().run()
    order = _Order(workers, problem, curve_marks(chosen.now.rows, examples))
    for depth in range(inner.depth, -1, -1):
        by_cost = problem.budget.by_cost
        offers = workers.ask(_worth, depth, order.counts_D, by_cost, depth=1)
        merged = Offers.merge(offers, sum(len(o.key_N) for o in offers))
        size = AT_ONCE if depth == inner.depth else PIECE
        for start in range(0, len(merged.key_N), size):
            order.add(merged.place_N2[start : start + size])
    assert (order.counts_D == chosen.now.counts_D).all(), "the ranking lost or doubled a row"
    return order.ranked()


def _worth(
    shards: Sequence[LoadedShard], objective: Objective, depth: int, counts_D: I32, by_cost: bool
) -> Offers:
    """Rows of exactly this depth with their gain (per token)."""
    parts, prices_D = [], objective.prices(counts_D)
    for shard in shards:
        index = np.flatnonzero(shard.depth_N == depth)
        gain_N, cost_N = priced(shard, shard.depth_N == depth, objective, prices_D, by_cost)
        parts.append(Offers(gain_N / cost_N, shard.ties_N[index], shard.places()[index], cost_N))
    return Offers.merge(parts, sum(len(p.key_N) for p in parts))


def given_order(
    workers: SelectionWorkers, problem: Problem, places_K2: I32, examples: int
) -> Ranked:
    """A core set in the order it comes in, with its gains under the objective."""
    order = _Order(workers, problem, curve_marks(len(places_K2), examples), as_given=True)
    for start in range(0, len(places_K2), PIECE):
        order.add(places_K2[start : start + PIECE])
    return order.ranked()


class _Order:
    """Puts pieces together. The rows of a piece go to a task, which returns their order."""

    def __init__(
        self, workers: SelectionWorkers, problem: Problem, marks_M: I64, as_given: bool = False
    ) -> None:
        budget = Budget(by_cost=problem.budget.by_cost)  # without limit: all rows are put in order
        self._workers = workers
        self._problem = replace(problem, budget=budget, bounds=Bounds.none())
        self._as_given = as_given
        self._marks_M = marks_M
        self._places: list[I32] = []
        self._pieces: list[Piece] = []
        self.counts_D = problem.base_D
        self._done = 0

    def add(self, places_N2: I32) -> None:
        """The next rows, to be put in greedy order unless they are to stay as given."""
        stop = self._done + len(places_N2)
        here = self._marks_M[(self._marks_M > self._done) & (self._marks_M <= stop)] - self._done
        parts, places = self._workers.rows_at(places_N2, depth=0 if self._as_given else 1)
        wanted = order_of(places, places_N2) if self._as_given else None
        problem = replace(self._problem, base_D=self.counts_D)
        piece = fetch(remote(_arrange, BESIDE).remote(problem, here, wanted, *parts))
        self._places.append(places[piece.index])
        self._pieces.append(piece)
        self.counts_D, self._done = piece.counts_D, stop

    def ranked(self) -> Ranked:
        """All pieces."""
        pieces = self._pieces
        return Ranked(
            np.concatenate(self._places),
            np.concatenate([p.gains for p in pieces]),
            np.concatenate([p.tokens for p in pieces]),
            self._marks_M,
            np.concatenate([p.counts_MD for p in pieces]),
        )


def _arrange(problem: Problem, marks_M: I64, wanted_N: I64 | None, *parts: FeatureRows) -> Piece:
    """All rows in greedy order, or in the wanted one, after what is in already."""
    rows = FeatureRows.concat(parts)
    if wanted_N is None:
        picked = lazy_greedy(rows, problem, slack=SLACK)
        order = picked.picks
    else:
        picked = in_order(rows.take(wanted_N), problem.objective, problem.base_D)
        order = wanted_N
    marked = _counts_at(rows, order, problem, marks_M)
    return Piece(order, picked.gains, rows.tokens_N[order], picked.counts_D, marked)


def _greedy(problem: Problem, examples: int, *parts: FeatureRows) -> tuple[Piece, I64]:
    rows = FeatureRows.concat(parts)
    problem = replace(problem, bounds=within_reach(problem.bounds, rows.groups_NT))
    picked = budgeted_greedy(rows, problem)
    require_met(problem.bounds, rows.groups_NT[picked.picks])
    marks = curve_marks(len(picked.picks), examples)
    marked = _counts_at(rows, picked.picks, problem, marks)
    tokens = rows.tokens_N[picked.picks]
    return Piece(picked.picks, picked.gains, tokens, picked.counts_D, marked), marks


def _counts_at(rows: FeatureRows, order: I64, problem: Problem, marks_M: I64) -> I32:
    counts_D = problem.base_D
    out = np.zeros((len(marks_M), len(counts_D)), np.int32)
    start = 0
    for m, stop in enumerate(marks_M):
        counts_D = counts_D + problem.objective.counts(rows, order[start:stop])
        out[m], start = counts_D, stop
    return out
