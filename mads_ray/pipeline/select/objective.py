"""What the objective takes from all examples: weights of the neurons, and bonuses for quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mads_ray.arrays import I64
from mads_ray.clustering.density import PoolDensity
from mads_ray.config import SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.features import configured_objective
from mads_ray.hashing import random_set
from mads_ray.pipeline.select.ground_set import GroundSet
from mads_ray.pipeline.select.random_sets import hash_thresholds, random_set_counts
from mads_ray.pipeline.select.workers import SelectionWorkers
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.problem import Budget
from mads_ray.submodular.shards import LoadedShard


def weigh_by_pool(
    workers: SelectionWorkers, options: SelectionConfig, ground: GroundSet
) -> SelectionWorkers:
    """Weigh the neurons in all workers by how many examples show them, and return these workers.

    Examples have the weights of the pool's density. Only sums come to the driver.
    """
    pool_counts_D = workers.sum(_shown, None if ground.density is None else ground.density.pool)
    about = (ground.states.manifest, ground.tree, None, pool_counts_D)
    objective = configured_objective(options, *about)
    workers.ask("weigh", objective.weight_D)
    return replace(workers, objective=objective, pool_counts_D=pool_counts_D)


def _shown(shards: Sequence[LoadedShard], objective: Objective, density: PoolDensity | None) -> I64:
    """What the rows here that have each feature weigh, candidates or not."""
    total = np.zeros(len(objective.weight_D), np.int64)
    for shard in shards:
        if density is None or density.flat:
            total += objective.counts(shard.rows())
        else:
            weights_N = density.weights(shard.shard, shard.tokens_N)
            total += objective.weighted_counts(shard.rows(), weights_N)
    return total


def reward_quality(
    workers: SelectionWorkers, options: SelectionConfig, budget: Budget, seed: int
) -> None:
    """Give every row a bonus for its quality: the worst none, and the rest in proportion.

    The best is worth `quality_weight` times what a random row adds to a random set of the budget.
    """
    ranges = workers.ask(_range)
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if low == high:
        raise ConfigError(f"--quality-column {options.quality_column} is {low} in every example")
    objective, stream = workers.objective, (seed, random_set(0))
    cost = np.array([budget.tokens if budget.tokens is not None else budget.rows], np.int64)
    thresholds = hash_thresholds(workers, 0, [stream], cost, budget.by_cost)
    counts_D = workers.sum(random_set_counts, [stream], thresholds)[0, 0]
    active = objective.layers * objective.per_layer
    rows = int(counts_D[: objective.neurons].sum()) // max(1, active)
    worth = objective.value(counts_D) / max(1, rows)
    workers.ask(_reward, low, high, round(options.quality_weight * worth))


def _range(shards: Sequence[LoadedShard], objective: Objective) -> tuple[float, float]:
    """Smallest and largest quality here."""
    values = [s.quality_N for s in shards if s.quality_N is not None]
    return float(min(v.min() for v in values)), float(max(v.max() for v in values))


def _reward(
    shards: Sequence[LoadedShard], objective: Objective, low: float, high: float, most: int
) -> None:
    """Bonuses from 0 for the lowest quality to `most` for the highest."""
    for shard in shards:
        assert shard.quality_N is not None
        share = (shard.quality_N - low) / (high - low)
        shard.bonus_N = np.rint(share * most).astype(np.int64)
