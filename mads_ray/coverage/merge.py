"""The merge tree: shard coverage sets are united and selected again, level by level.

The root selects the core set from the union of what reached it (GreeDi: Mirzasoleiman et al. 2013;
with random partitions RandGreeDi: Barbosa et al. 2015). Shards are uid ranges, so the partition is
random.
"""

from __future__ import annotations

from collections.abc import Sequence

from mads_ray.coverage.greedy import Budget, lazy_greedy
from mads_ray.coverage.objective import Objective
from mads_ray.coverage.rows import FeatureRows


def coverage_set(
    parts: Sequence[FeatureRows], objective: Objective, budget: Budget, seed: int
) -> FeatureRows:
    """Select from the union of `parts`: a leaf's shard or an inner node's children."""
    rows = FeatureRows.concat(parts)
    return rows.take(lazy_greedy(rows, objective, budget, seed).picks)


def merge_levels(leaves: int, fan_in: int) -> list[list[range]]:
    """Groups of children on every level above the leaves; the last level is one group, the root.

    A single leaf is the root itself: the list is empty.
    """
    levels = []
    width = leaves
    while width > 1:
        groups = [range(i, min(i + fan_in, width)) for i in range(0, width, fan_in)]
        levels.append(groups)
        width = len(groups)
    return levels
