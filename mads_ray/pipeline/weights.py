"""Weights of the neurons by the pool itself: see coverage.objective.make_objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig
from mads_ray.coverage.held import HeldShard
from mads_ray.coverage.objective import I64, Objective
from mads_ray.pipeline.extend import configured_objective
from mads_ray.pipeline.holder_pool import HolderPool
from mads_ray.states import StatesManifest


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
