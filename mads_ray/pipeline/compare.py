"""How good a core set and its prefixes are: against random ones, and against the best possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mads_ray.config import RunConfig
from mads_ray.coverage.baseline import FIRST_DRAW
from mads_ray.coverage.certificate import PriceHistogram, bin_width, upper_bound
from mads_ray.coverage.greedy import Budget
from mads_ray.coverage.objective import I32, I64, UNIT
from mads_ray.pipeline.draws import find_cuts
from mads_ray.pipeline.holder_pool import HolderPool
from mads_ray.pipeline.rank import PREFIXES, Ranked


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Figures of the whole core set, of its prefixes, and the curve over all marks."""

    metrics: dict[str, Any]
    prefixes: list[dict[str, Any]]
    curve: dict[str, Any]


def compare_with_random(
    pool: HolderPool,
    config: RunConfig,
    ranked: Ranked,
    budget: Budget,
    base_D: I32,
    examples: int,
) -> Comparison:
    """Beside random core sets of the same sizes (or tokens). f counts what is added to the base."""
    objective, marks = pool.objective, ranked.marks_M
    streams = [(config.seed, FIRST_DRAW + d) for d in range(config.selection.random_draws)]
    cost_K = ranked.tokens_K if budget.by_cost else np.ones(len(ranked.gains_K), np.int64)
    costs_M: I64 = np.cumsum(cost_K, dtype=np.int64)[marks - 1]
    cuts = find_cuts(pool, 0, streams, costs_M, budget.by_cost)
    counts = pool.total("draw_counts", streams, cuts)
    base = objective.value(base_D)

    def f(counts_D: I32) -> float:
        return (objective.value(counts_D + base_D) - base) / UNIT

    def covered(counts: I32) -> Any:
        return (counts[..., : objective.neurons] > 0).mean(-1)

    f_random = np.array([[f(c) for c in draw] for draw in counts])
    covered_random = covered(counts + base_D)
    f_core = [(objective.value(c) - base) / UNIT for c in ranked.counts_MD]
    covered_core = covered(ranked.counts_MD).tolist()
    gained = np.cumsum(ranked.gains_K)[marks - 1]  # with bonuses, as the bound
    shares = {int(p * examples + 1e-9): p for p in PREFIXES}
    wanted = [m for m, n in enumerate(marks) if int(n) in shares or m == len(marks) - 1]
    bounds = _bounds(pool, ranked, budget, base_D, costs_M, wanted)
    rows = []
    for m in wanted:
        bound = bounds[m] - base
        f_random_mean = float(f_random[:, m].mean())
        rows.append(
            {
                "f": f_core[m],
                "f_random_mean": f_random_mean,
                "certified_ratio": min(1.0, int(gained[m]) / bound),
                "lift_at_least": _lift(f_core[m], f_random_mean, bound / UNIT),
            }
        )
    metrics = {
        **rows[-1],
        "f_random_std": float(f_random[:, -1].std(ddof=1)),
        "opt_upper_bound": (bounds[len(marks) - 1] - base) / UNIT,
        "neuron_coverage": covered_core[-1],
        "neuron_coverage_random": float(covered_random[:, -1].mean()),
    }
    curve = {
        "sizes": marks.tolist(),
        "core": f_core,
        "random_mean": f_random.mean(0).tolist(),
        "random_low": f_random.min(0).tolist(),
        "random_high": f_random.max(0).tolist(),
        "neurons_core": covered_core,
        "neurons_random_mean": covered_random.mean(0).tolist(),
        "neurons_random_low": covered_random.min(0).tolist(),
        "neurons_random_high": covered_random.max(0).tolist(),
    }
    prefixes = [
        {"fraction": shares[int(marks[m])], "size": int(marks[m]), **row}
        for m, row in zip(wanted, rows, strict=True)
        if int(marks[m]) in shares
    ]
    return Comparison(metrics, prefixes, curve)


def _bounds(
    pool: HolderPool,
    ranked: Ranked,
    budget: Budget,
    base_D: I32,
    costs_M: I64,
    wanted: list[int],
) -> dict[int, int]:
    """Upper bounds at some marks."""
    at = [
        (ranked.counts_MD[m], bin_width(pool.objective, ranked.counts_MD[m], int(costs_M[m])))
        for m in wanted
    ]
    answers: list[list[PriceHistogram]] = pool.all("histograms", at, budget.by_cost)
    found = {}
    for i, m in enumerate(wanted):
        histogram = answers[0][i]
        for other in answers[1:]:
            histogram = histogram + other[i]
        last = m == len(costs_M) - 1
        limit = budget.tokens if last and budget.tokens is not None else int(costs_M[m])
        found[m] = upper_bound(pool.objective, ranked.counts_MD[m], base_D, histogram, limit)
    return found


def _lift(f: float, f_random: float, bound: float) -> float | None:
    return (f - f_random) / (bound - f_random) if bound > f_random else None
