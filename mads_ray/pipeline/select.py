"""Stage 5: shard coverage sets climb the merge tree; the root is the ranked core set.

Up to `selection.exact_rows` examples the whole corpus is one leaf, and what comes out is exact lazy
greedy, whatever the sharding. Above it the tree is as deep as the fan-in makes it, and depends on
the canonical shards alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig, SelectionConfig
from mads_ray.coverage.greedy import Budget, lazy_greedy
from mads_ray.coverage.merge import coverage_set, merge_levels
from mads_ray.coverage.objective import UNIT, Objective, make_objective
from mads_ray.coverage.rows import FeatureRows
from mads_ray.errors import ConfigError
from mads_ray.pipeline.cluster import CapturedShard, load_rows
from mads_ray.pipeline.compare import certify, compare_with_random
from mads_ray.pipeline.stream import fetch, remote
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
    root = _climb(config, groups, shared, budget)
    if not root.uids:
        raise ConfigError(f"no example fits the budget of {budget.tokens} tokens; raise --tokens")
    picks = [
        Pick(uid, rank, int(gain) / UNIT)
        for rank, (uid, gain) in enumerate(zip(root.uids, root.gains, strict=True))
    ]
    metrics, curve = compare_with_random(config, groups, objective, shared, root, examples)
    metrics |= certify(groups, objective, shared, root, budget, examples)
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


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """What the driver gets of the root: ids, gains and counts, but no features."""

    uids: list[str]
    gains: npt.NDArray[np.int64]
    counts_D: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]  # prefixes on the coverage curve
    covered: list[float]  # share of neurons that each of them activates


def _climb(config: RunConfig, groups: Groups, shared: tuple[Any, Any], budget: Budget) -> Root:
    """Leaves select from their rows, inner nodes from the union of their children's sets.

    Only references pass through here; coverage sets stay in the object store.
    """
    oversample, seed = config.selection.oversample, config.seed
    tree, objective = shared
    levels = merge_levels(len(groups), config.selection.fan_in)
    if not levels:
        return fetch(remote(_root_of_shards).remote(groups[0], tree, objective, budget, seed))  # type: ignore[no-any-return]
    leaf, inner, root = remote(_leaf), remote(_inner), remote(_root)
    share = budget.share(1 / len(groups), oversample)
    sets = [leaf.remote(group, tree, objective, share, seed) for group in groups]
    covered = [1] * len(groups)
    for ranges in levels[:-1]:
        covered = [sum(covered[i] for i in r) for r in ranges]
        shares = [budget.share(c / len(groups), oversample) for c in covered]
        sets = [
            inner.remote(objective, part, seed, *(sets[i] for i in r))
            for part, r in zip(shares, ranges, strict=True)
        ]
    return fetch(root.remote(objective, budget, seed, *sets))  # type: ignore[no-any-return]


def _leaf(
    group: list[CapturedShard], tree: ClusterTree, objective: Objective, budget: Budget, seed: int
) -> FeatureRows:
    return coverage_set([load_rows(group, tree)], objective, budget, seed)


def _inner(objective: Objective, budget: Budget, seed: int, *parts: FeatureRows) -> FeatureRows:
    return coverage_set(parts, objective, budget, seed)


def _root_of_shards(
    group: list[CapturedShard], tree: ClusterTree, objective: Objective, budget: Budget, seed: int
) -> Root:
    return _root(objective, budget, seed, load_rows(group, tree))


def _root(objective: Objective, budget: Budget, seed: int, *parts: FeatureRows) -> Root:
    rows = FeatureRows.concat(parts)
    selection = lazy_greedy(rows, objective, budget, seed)
    core = rows.take(selection.picks)
    sizes = _curve_sizes(len(core))
    counts_D, covered, start = objective.empty_counts(), [], 0
    for stop in sizes:
        counts_D = counts_D + objective.counts(core, np.arange(start, stop))
        covered.append(float((counts_D[: objective.neurons] > 0).mean()))
        start = stop
    uids = [uid.decode() for uid in core.uids]
    return Root(uids, selection.gains, counts_D, sizes, covered)


def _curve_sizes(most: int) -> npt.NDArray[np.int64]:
    if not most:
        return np.empty(0, np.int64)
    sizes = np.unique(np.geomspace(max(1, most / 50), most, _CURVE_POINTS).round().astype(int))
    return sizes.astype(np.int64)
