"""How good a core set is: against random ones, and against the best possible."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig
from mads_ray.coverage.baseline import counts_below, draw_hashes
from mads_ray.coverage.certificate import (
    DualPrices,
    dual_prices,
    excess,
    lambda_grid,
    scores,
    upper_bound,
)
from mads_ray.coverage.greedy import Budget
from mads_ray.coverage.objective import UNIT, Objective
from mads_ray.pipeline.cluster import CapturedShard, load_rows
from mads_ray.pipeline.stream import map_tasks
from mads_ray.states import read_states

if TYPE_CHECKING:
    from mads_ray.pipeline.select import Groups, Root


def compare_with_random(
    config: RunConfig,
    groups: Groups,
    objective: Objective,
    shared: tuple[Any, Any],
    root: Root,
    examples: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, coverage curve) of the core set beside random core sets of the same sizes."""
    draws = config.selection.random_draws
    sizes = root.sizes
    cuts = _random_cuts(config, groups, sizes, examples)
    calls = ((g, *shared, config.seed, cuts) for g in groups)
    counts: npt.NDArray[np.int32] = sum(map_tasks(_random_counts, calls))
    f_random = np.array([[objective.value(c) for c in counts[d]] for d in range(draws)]) / UNIT
    covered_random = (counts[:, :, : objective.neurons] > 0).mean(2)
    f_core = np.cumsum(root.gains)[sizes - 1] / UNIT
    metrics = {
        "f": float(f_core[-1]),
        "f_random_mean": float(f_random[:, -1].mean()),
        "f_random_std": float(f_random[:, -1].std(ddof=1)),
        "neuron_coverage": root.covered[-1],
        "neuron_coverage_random": float(covered_random[:, -1].mean()),
    }
    curve = {
        "sizes": sizes.tolist(),
        "core": f_core.tolist(),
        "random_mean": f_random.mean(0).tolist(),
        "random_low": f_random.min(0).tolist(),
        "random_high": f_random.max(0).tolist(),
        "neurons_core": root.covered,
        "neurons_random_mean": covered_random.mean(0).tolist(),
        "neurons_random_low": covered_random.min(0).tolist(),
        "neurons_random_high": covered_random.max(0).tolist(),
    }
    return metrics, curve


def _random_cuts(
    config: RunConfig, groups: Groups, sizes: npt.NDArray[np.int64], examples: int
) -> npt.NDArray[np.uint64]:
    """Hash below which each draw holds each size, (draws, B). The driver sees draws x K hashes."""
    draws, most = config.selection.random_draws, int(sizes[-1])
    # Six sigma and some more for small K: the K smallest hashes of every draw are below it.
    share = (most + 6 * math.sqrt(most) + 64) / examples
    limit = np.uint64(2**64 - 1 if share >= 1 else int(share * 2**64))
    parts = list(map_tasks(_small_hashes, ((g, config.seed, draws, limit) for g in groups)))
    cuts = np.empty((draws, len(sizes)), np.uint64)
    for d in range(draws):
        hashes = np.sort(np.concatenate([p[d] for p in parts]))
        assert len(hashes) >= most, "a random draw came out short"
        cuts[d] = hashes[sizes - 1]
    return cuts


def _small_hashes(
    group: list[CapturedShard], seed: int, draws: int, limit: np.uint64
) -> list[npt.NDArray[np.uint64]]:
    uids = [u for s in group for u in read_states(s.states, ["uid"]).column("uid").to_pylist()]
    hashes = (draw_hashes(uids, seed, d) for d in range(draws))
    return [h[h <= limit] for h in hashes]


def _random_counts(
    group: list[CapturedShard],
    tree: ClusterTree,
    objective: Objective,
    seed: int,
    cuts: npt.NDArray[np.uint64],
) -> npt.NDArray[np.int32]:
    rows = load_rows(group, tree)
    uids = [u.decode() for u in rows.uids]
    return np.stack(
        [counts_below(rows, objective, draw_hashes(uids, seed, d), c) for d, c in enumerate(cuts)]
    )


# --- certificate ---


def certify(
    groups: Groups,
    objective: Objective,
    shared: tuple[Any, Any],
    root: Root,
    budget: Budget,
    examples: int,
) -> dict[str, Any]:
    """An upper bound on the optimum, and the share of it that the core set is sure to reach."""
    by_tokens = budget.tokens is not None
    picked = len(root.uids)
    limit = budget.tokens if budget.tokens is not None else picked
    dual = dual_prices(objective, root.counts_D)
    (sample,) = map_tasks(_scores, [(groups[0], *shared, dual, by_tokens)])
    lambdas = lambda_grid(sample, picked / examples)
    calls = ((g, *shared, dual, lambdas, by_tokens) for g in groups)
    total: npt.NDArray[np.float64] = sum(map_tasks(_excess, calls))
    bound = upper_bound(dual, lambdas, total, limit)
    return {
        "opt_upper_bound": bound,
        "certified_ratio": min(1.0, objective.value(root.counts_D) / UNIT / bound),
    }


def _scores(
    group: list[CapturedShard],
    tree: ClusterTree,
    objective: Objective,
    dual: DualPrices,
    by_tokens: bool,
) -> npt.NDArray[np.float64]:
    return scores(load_rows(group, tree), objective, dual, by_tokens)


def _excess(
    group: list[CapturedShard],
    tree: ClusterTree,
    objective: Objective,
    dual: DualPrices,
    lambdas: npt.NDArray[np.float64],
    by_tokens: bool,
) -> npt.NDArray[np.float64]:
    return excess(load_rows(group, tree), objective, dual, lambdas, by_tokens)
