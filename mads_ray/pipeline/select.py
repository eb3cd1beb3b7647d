"""Stage 5: shard coverage sets climb the merge tree; the root is the ranked core set.

Up to `selection.exact_rows` examples the whole corpus is one leaf, and what comes out is exact lazy
greedy, whatever the sharding. Above it the tree is as deep as the fan-in makes it, and depends on
the canonical shards alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig, SelectionConfig
from mads_ray.coverage.baseline import counts_below, draw_hashes
from mads_ray.coverage.certificate import (
    DualPrices,
    dual_prices,
    excess,
    lambda_grid,
    scores,
    upper_bound,
)
from mads_ray.coverage.greedy import Budget, lazy_greedy
from mads_ray.coverage.merge import coverage_set, merge_levels
from mads_ray.coverage.objective import UNIT, Objective, make_objective
from mads_ray.coverage.rows import FeatureRows
from mads_ray.errors import ConfigError
from mads_ray.pipeline.cluster import CapturedShard, load_rows
from mads_ray.pipeline.stream import map_tasks
from mads_ray.states import StatesManifest

Groups = list[list[CapturedShard]]
_CURVE_POINTS = 12


@dataclass(frozen=True, slots=True)
class Pick:
    """A selected example: its rank from 0 and its marginal gain in units of f."""

    uid: str
    rank: int
    gain: float


@dataclass(frozen=True, slots=True)
class CoreSet:
    """The ranked picks, and how they compare with random core sets of the same size."""

    picks: list[Pick]
    mode: str  # exact or tree
    metrics: dict[str, Any]
    curve: dict[str, Any] = field(default_factory=dict)


def select(
    config: RunConfig,
    shards: list[CapturedShard],
    manifest: StatesManifest,
    tree: ClusterTree,
    examples: int,
) -> CoreSet:
    """Select from captured states; `examples` is their number in all shards."""
    budget = resolve_budget(config.selection, examples)
    exact = examples <= config.selection.exact_rows
    groups: Groups = [shards] if exact else [[s] for s in shards]
    most = examples if budget.rows is None else min(budget.rows, examples)
    objective = make_objective(
        config.selection.objective,
        manifest.layers,
        manifest.width,
        manifest.neurons_per_layer,
        tree.level_sizes,
        config.selection.tree_share,
        most,
    )
    shared = (ray.put(tree), ray.put(objective))
    rows, gains = _climb(config, groups, shared, budget, examples)
    if not len(rows):
        raise ConfigError(f"no example fits the budget of {budget.tokens} tokens; raise --tokens")
    picks = [
        Pick(uid.decode(), rank, int(gain) / UNIT)
        for rank, (uid, gain) in enumerate(zip(rows.uids, gains, strict=True))
    ]
    metrics, curve = _compare(config, groups, objective, shared, rows, gains, examples)
    metrics |= _certify(config, groups, objective, shared, rows, budget, examples)
    # In the exact mode the core set is lazy greedy's own, so its lift is 1 by definition. In the
    # tree mode nothing here knows lazy greedy's value: see certified_ratio instead.
    metrics["lift"] = 1.0 if exact and metrics["f"] > metrics["f_random_mean"] else None
    return CoreSet(picks, "exact" if exact else "tree", metrics, curve)


def resolve_budget(selection: SelectionConfig, examples: int) -> Budget:
    """Raises ConfigError for a size larger than the corpus."""
    if selection.tokens is not None:
        return Budget(tokens=selection.tokens)
    if selection.size is not None:
        if selection.size > examples:
            raise ConfigError(f"--size {selection.size} is more than the {examples} examples")
        return Budget(rows=selection.size)
    assert selection.effective_fraction is not None
    return Budget(rows=max(1, math.floor(selection.effective_fraction * examples + 1e-9)))


def _climb(
    config: RunConfig, groups: Groups, shared: tuple[Any, Any], budget: Budget, examples: int
) -> tuple[FeatureRows, npt.NDArray[np.int64]]:
    """Leaves select from their rows, inner nodes from the union of their children's sets."""
    oversample, seed = config.selection.oversample, config.seed
    levels = merge_levels(len(groups), config.selection.fan_in)
    if not levels:
        (root,) = map_tasks(_root_of_shards, [(groups[0], *shared, budget, seed)])
        return root  # type: ignore[no-any-return]
    share = budget.share(1 / len(groups), oversample)
    sets = list(map_tasks(_leaf, ((g, *shared, share, seed) for g in groups)))
    covered = [1] * len(groups)
    for level, ranges in enumerate(levels):
        parts = [[sets[i] for i in r] for r in ranges]
        covered = [sum(covered[i] for i in r) for r in ranges]
        if level == len(levels) - 1:
            (root,) = map_tasks(_root_of_sets, [(parts[0], shared[1], budget, seed)])
            return root  # type: ignore[no-any-return]
        shares = [budget.share(c / len(groups), oversample) for c in covered]
        calls = ((p, shared[1], s, seed) for p, s in zip(parts, shares, strict=True))
        sets = list(map_tasks(coverage_set, calls))
    raise AssertionError("a merge tree ends in one root")


def _leaf(
    group: list[CapturedShard], tree: ClusterTree, objective: Objective, budget: Budget, seed: int
) -> FeatureRows:
    return coverage_set([load_rows(group, tree)], objective, budget, seed)


def _root_of_shards(
    group: list[CapturedShard], tree: ClusterTree, objective: Objective, budget: Budget, seed: int
) -> tuple[FeatureRows, npt.NDArray[np.int64]]:
    return _root_of_sets([load_rows(group, tree)], objective, budget, seed)


def _root_of_sets(
    parts: list[FeatureRows], objective: Objective, budget: Budget, seed: int
) -> tuple[FeatureRows, npt.NDArray[np.int64]]:
    rows = FeatureRows.concat(parts)
    selection = lazy_greedy(rows, objective, budget, seed)
    return rows.take(selection.picks), selection.gains


# --- comparison with random core sets ---


def _compare(
    config: RunConfig,
    groups: Groups,
    objective: Objective,
    shared: tuple[Any, Any],
    core: FeatureRows,
    gains: npt.NDArray[np.int64],
    examples: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    draws = config.selection.random_draws
    sizes = _curve_sizes(len(core))
    cuts = _random_cuts(config, groups, sizes, examples)
    calls = ((g, *shared, config.seed, cuts) for g in groups)
    counts: npt.NDArray[np.int32] = sum(map_tasks(_random_counts, calls))
    f_random = np.array([[objective.value(c) for c in counts[d]] for d in range(draws)]) / UNIT
    covered_random = (counts[:, :, : objective.neurons] > 0).mean(2)
    f_core = np.cumsum(gains)[sizes - 1] / UNIT
    covered_core = [
        float((objective.counts(core, np.arange(n))[: objective.neurons] > 0).mean()) for n in sizes
    ]
    metrics = {
        "f": float(f_core[-1]),
        "f_random_mean": float(f_random[:, -1].mean()),
        "f_random_std": float(f_random[:, -1].std(ddof=1)),
        "neuron_coverage": covered_core[-1],
        "neuron_coverage_random": float(covered_random[:, -1].mean()),
    }
    curve = {
        "sizes": sizes.tolist(),
        "core": f_core.tolist(),
        "random_mean": f_random.mean(0).tolist(),
        "random_low": f_random.min(0).tolist(),
        "random_high": f_random.max(0).tolist(),
        "neurons_core": covered_core,
        "neurons_random_mean": covered_random.mean(0).tolist(),
        "neurons_random_low": covered_random.min(0).tolist(),
        "neurons_random_high": covered_random.max(0).tolist(),
    }
    return metrics, curve


def _curve_sizes(most: int) -> npt.NDArray[np.int64]:
    sizes = np.unique(np.geomspace(max(1, most / 50), most, _CURVE_POINTS).round().astype(int))
    return sizes.astype(np.int64)


def _random_cuts(
    config: RunConfig, groups: Groups, sizes: npt.NDArray[np.int64], examples: int
) -> npt.NDArray[np.uint64]:
    """Hash below which each draw holds each size, (draws, B). The driver sees draws x K hashes."""
    draws, most = config.selection.random_draws, int(sizes[-1])
    share = most / examples + 6 * math.sqrt(most) / examples  # six sigma: the K smallest are below
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
    uids = _uids(group)
    hashes = (draw_hashes(uids, seed, d) for d in range(draws))
    return [h[h <= limit] for h in hashes]


def _uids(group: list[CapturedShard]) -> list[str]:
    from mads_ray.states import read_states

    return [u for s in group for u in read_states(s.states, ["uid"]).column("uid").to_pylist()]


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


def _certify(
    config: RunConfig,
    groups: Groups,
    objective: Objective,
    shared: tuple[Any, Any],
    core: FeatureRows,
    budget: Budget,
    examples: int,
) -> dict[str, Any]:
    by_tokens = budget.tokens is not None
    limit = budget.tokens if budget.tokens is not None else len(core)
    counts = objective.counts(core)
    dual = dual_prices(objective, counts)
    (sample,) = map_tasks(_scores, [(groups[0], *shared, dual, by_tokens)])
    lambdas = lambda_grid(sample, len(core) / examples)
    calls = ((g, *shared, dual, lambdas, by_tokens) for g in groups)
    bound = upper_bound(dual, lambdas, _sum(map_tasks(_excess, calls)), limit)
    return {
        "opt_upper_bound": bound,
        "certified_ratio": min(1.0, objective.value(counts) / UNIT / bound),
    }


def _sum(parts: Iterator[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    total = next(parts)
    for part in parts:
        total = total + part
    return total


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
