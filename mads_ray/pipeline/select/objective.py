"""What the objective takes from the pool: weights of the neurons, and bonuses for quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mads_ray.arrays import I64
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig, SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.features import configured_objective
from mads_ray.hashing import random_set
from mads_ray.pipeline.select.random_sets import draw_counts, find_cuts
from mads_ray.pipeline.select.workers import HolderPool
from mads_ray.states import StatesManifest
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.problem import Budget
from mads_ray.submodular.shards import HeldShard


def weigh_by_pool(
    pool: HolderPool, config: RunConfig, manifest: StatesManifest, tree: ClusterTree
) -> HolderPool:
    """The pool with these weights, in its holders too. Only sums come to the driver."""
    shown_D = pool.sum(_shown)
    objective = configured_objective(config, manifest, tree, None, shown_D)
    pool.all("weigh", objective.weight_D)
    return replace(pool, objective=objective, shown_D=shown_D)


def _shown(shards: Sequence[HeldShard], objective: Objective) -> I64:
    total = np.zeros(len(objective.weight_D), np.int64)
    for held in shards:
        total += objective.counts(held.rows())
    return total


def reward_quality(pool: HolderPool, options: SelectionConfig, budget: Budget, seed: int) -> None:
    """The best quality is worth `quality_weight` times what a random example adds to a core set of
    this size, the worst nothing, and the rest in proportion."""
    ranges = pool.each(_range)
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if low == high:
        raise ConfigError(f"--quality-column {options.quality_column} is {low} in every example")
    cost = budget.tokens if budget.tokens is not None else budget.rows
    stream = (seed, random_set(0))
    cuts = find_cuts(pool, 0, [stream], np.array([cost], np.int64), budget.by_cost)
    counts_D = pool.sum(draw_counts, [stream], cuts)[0, 0]
    objective = pool.objective
    active = objective.layers * objective.per_layer
    rows = int(counts_D[: objective.neurons].sum()) // max(1, active)
    worth = objective.value(counts_D) / max(1, rows)
    pool.each(_reward, low, high, round(options.quality_weight * worth))


def _range(shards: Sequence[HeldShard], objective: Objective) -> tuple[float, float]:
    """Smallest and largest quality held here."""
    values = [h.quality_N for h in shards if h.quality_N is not None]
    return float(min(v.min() for v in values)), float(max(v.max() for v in values))


def _reward(
    shards: Sequence[HeldShard], objective: Objective, low: float, high: float, most: int
) -> None:
    """Bonuses from 0 for the lowest quality to `most` for the highest."""
    for held in shards:
        assert held.quality_N is not None
        share = (held.quality_N - low) / (high - low)
        held.bonus_N = np.rint(share * most).astype(np.int64)
