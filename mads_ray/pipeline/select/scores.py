"""How good a core set and its prefixes are: beside random sets, and beside the best possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mads_ray.arrays import F64, I32, I64
from mads_ray.config import Method
from mads_ray.hashing import random_set
from mads_ray.pipeline.select.random_sets import hash_thresholds, random_set_counts
from mads_ray.pipeline.select.rank import PREFIXES, Ranked
from mads_ray.pipeline.select.workers import SelectionWorkers
from mads_ray.submodular.exchange import priced
from mads_ray.submodular.objective import UNIT, Objective
from mads_ray.submodular.problem import Problem
from mads_ray.submodular.shards import LoadedShard, rows_of
from mads_ray.submodular.totals import Delta
from mads_ray.submodular.tree_bound import LeafHistogram, Scale, bound_prices, tree_bound

_SETS_AT_ONCE = 4  # bounds the count vectors on the driver
_LAST_PICKS = 50  # one in so many
_MERGED_AT_ONCE = 8  # bounds what a worker holds of histograms


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Figures of the whole core set, of its prefixes, and the curve over all marks."""

    metrics: dict[str, Any]
    prefixes: list[dict[str, Any]]
    curve: dict[str, Any]


def compare_with_random(
    workers: SelectionWorkers, problem: Problem, ranked: Ranked, examples: int, sets: int
) -> Comparison:
    """Compare with so many random sets of the same size (or tokens). f counts what is added to the
    base; `examples`: number of candidates, of which the prefixes are shares."""
    objective, marks, by_cost = problem.objective, ranked.marks_M, problem.budget.by_cost
    cost_K = ranked.tokens_K if by_cost else np.ones(len(ranked.gains_K), np.int64)
    costs_M: I64 = np.cumsum(cost_K, dtype=np.int64)[marks - 1]
    f_RM, covered_RM = _random_sets(workers, problem, costs_M, sets)
    base = objective.value(problem.base_D)
    f_core = [(objective.value(c) - base) / UNIT for c in ranked.counts_MD]
    covered_core = _covered(objective, ranked.counts_MD).tolist()
    gained = np.cumsum(ranked.gains_K)[marks - 1]  # with bonuses, as the bound
    shares = {int(p * examples + 1e-9): p for p in PREFIXES}
    wanted = [m for m, n in enumerate(marks) if int(n) in shares or m == len(marks) - 1]
    bounds = _bounds(workers, problem, ranked, costs_M, wanted)
    rows = []
    for m in wanted:
        bound = bounds[m] - base
        f_random_mean = float(f_RM[:, m].mean())
        rows.append(
            {
                "f": f_core[m],
                "f_random_mean": f_random_mean,
                "certified_ratio": min(1.0, int(gained[m]) / bound) if bound else 1.0,
                "lift_at_least": _lift(f_core[m], f_random_mean, bound / UNIT),
            }
        )
    metrics = {
        **rows[-1],
        "f_random_std": float(f_RM[:, -1].std(ddof=1)),
        "opt_upper_bound": (bounds[len(marks) - 1] - base) / UNIT,
        "neuron_coverage": covered_core[-1],
        "neuron_coverage_random": float(covered_RM[:, -1].mean()),
    }
    prefixes = [
        {"fraction": shares[int(marks[m])], "size": int(marks[m]), **row}
        for m, row in zip(wanted, rows, strict=True)
        if int(marks[m]) in shares
    ]
    curve = {
        "sizes": marks.tolist(),
        "core": f_core,
        "random_mean": f_RM.mean(0).tolist(),
        "random_low": f_RM.min(0).tolist(),
        "random_high": f_RM.max(0).tolist(),
        "neurons_core": covered_core,
        "neurons_random_mean": covered_RM.mean(0).tolist(),
        "neurons_random_low": covered_RM.min(0).tolist(),
        "neurons_random_high": covered_RM.max(0).tolist(),
    }
    return Comparison(metrics, prefixes, curve)


def _random_sets(
    workers: SelectionWorkers, problem: Problem, costs_M: I64, sets: int
) -> tuple[F64, F64]:
    """f and the share of neurons that are covered, of random sets at some costs: (R, M) each."""
    objective, by_cost = problem.objective, problem.budget.by_cost
    streams = [(problem.seed, random_set(i)) for i in range(sets)]
    thresholds_RM = hash_thresholds(workers, 0, streams, costs_M, by_cost)
    base = objective.value(problem.base_D)
    f, covered = [], []
    for start in range(0, sets, _SETS_AT_ONCE):
        some = slice(start, start + _SETS_AT_ONCE)
        added = workers.sum(random_set_counts, streams[some], thresholds_RM[some])
        for counts_MD in problem.base_D + added:
            f.append([(objective.value(c) - base) / UNIT for c in counts_MD])
            covered.append(_covered(objective, counts_MD))
    return np.array(f), np.array(covered)


def _covered(objective: Objective, counts: I32) -> Any:
    """Share of the neurons that some row has, over the last axis."""
    return (counts[..., : objective.neurons] > 0).mean(-1)


def _bounds(
    workers: SelectionWorkers, problem: Problem, ranked: Ranked, costs_M: I64, wanted: list[int]
) -> dict[int, int]:
    """Upper bounds on f at some marks, in units of 2^-28. One pass over the rows for all marks."""
    objective, budget = problem.objective, problem.budget
    at = []
    for m in wanted:
        rows = int(ranked.marks_M[m])
        # What the last picks gained for their cost: about what a unit of the budget is worth.
        last = slice(rows - max(1, rows // _LAST_PICKS), rows)
        cost = int(ranked.tokens_K[last].sum()) if budget.by_cost else last.stop - last.start
        price = int(ranked.gains_K[last].sum()) // max(1, cost)
        counts_D = ranked.counts_MD[m]
        at.append((counts_D, Scale.of(objective, counts_D, rows, price)))
    answers: list[list[LeafHistogram]] = workers.ask(_histograms, at, budget.by_cost)
    found = {}
    for m, (counts_D, _), *parts in zip(wanted, at, *answers, strict=True):
        last_mark = m == len(costs_M) - 1
        limit = budget.tokens if last_mark and budget.tokens is not None else int(costs_M[m])
        merged = LeafHistogram.merge(parts)
        how = (merged, limit, budget.by_cost)
        found[m] = tree_bound(objective, counts_D, problem.base_D, *how)
    return found


def _histograms(
    shards: Sequence[LoadedShard],
    objective: Objective,
    at: Sequence[tuple[I32, Scale]],
    by_cost: bool,
) -> list[LeafHistogram]:
    """Histograms of the candidates, at each of several (counts, scale)."""
    prices = [bound_prices(objective, counts_D) for counts_D, _ in at]
    found: list[list[LeafHistogram]] = [[] for _ in at]
    for shard in shards:
        open_N = shard.candidates(0)
        for parts, prices_D, (_, scale) in zip(found, prices, at, strict=True):
            gain_N, cost_N = priced(shard, open_N, objective, prices_D, by_cost)
            parts.append(LeafHistogram.of(gain_N, cost_N, shard.paths_NP[open_N], scale))
            if len(parts) == _MERGED_AT_ONCE:
                parts[:] = [LeafHistogram.merge(parts)]
    return [LeafHistogram.merge(parts) for parts in found]


def figures(
    workers: SelectionWorkers, problem: Problem, compared: dict[Method, I32]
) -> dict[str, dict[str, float]]:
    """f and coverage of every method's core set under the one objective of the run."""
    objective = problem.objective
    start = objective.value(problem.base_D)
    found: dict[str, dict[str, float]] = {}
    for method, places in compared.items():
        delta = workers.sum(_sum_of, places)
        counts_D = problem.base_D + delta.counts_D
        found[method] = {
            "rows": delta.rows,
            "tokens": delta.tokens,
            "f": (objective.value(counts_D) - start) / UNIT,
            "neuron_coverage": float(_covered(objective, counts_D)),
        }
    return found


def _sum_of(shards: Sequence[LoadedShard], objective: Objective, places_K2: I32) -> Delta:
    """What the rows at some places (of any worker) add up to."""
    total = Delta.none(objective, 0)
    for shard, index in rows_of(shards, places_K2):
        total = total + Delta.of(shard.rows(), index, objective, 0)
    return total


def _lift(f: float, f_random: float, bound: float) -> float | None:
    return (f - f_random) / (bound - f_random) if bound > f_random else None
