"""An optional quality of every example, as a bonus beside its coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mads_ray.config import SelectionConfig
from mads_ray.coverage.baseline import FIRST_DRAW
from mads_ray.coverage.greedy import Budget
from mads_ray.coverage.held import HeldShard
from mads_ray.coverage.objective import Objective
from mads_ray.errors import ConfigError
from mads_ray.pipeline.draws import draw_counts, find_cuts
from mads_ray.pipeline.holder_pool import HolderPool


def reward_quality(pool: HolderPool, options: SelectionConfig, budget: Budget, seed: int) -> None:
    """The best quality is worth `quality_weight` times what a random example adds to a core set of
    this size, the worst nothing, and the rest in proportion."""
    ranges = pool.each(_range)
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if low == high:
        raise ConfigError(f"--quality-column {options.quality_column} is {low} in every example")
    cost = budget.tokens if budget.tokens is not None else budget.rows
    stream = (seed, FIRST_DRAW)
    cuts = find_cuts(pool, 0, [stream], np.array([cost], np.int64), budget.by_cost)
    counts_D = pool.sum(draw_counts, [stream], cuts)[0, 0]
    rows = int(counts_D[: pool.objective.neurons].sum()) // max(1, len(pool.objective.base_A))
    worth = pool.objective.value(counts_D) / max(1, rows)
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
