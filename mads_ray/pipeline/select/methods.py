"""Run a method of `BASELINES` on shards: the same budget and candidates as ours, another order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64, I32, I64
from mads_ray.baselines import BASELINES, Candidates
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import Method, SelectionConfig
from mads_ray.hashing import BASELINE_ORDER
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.pipeline.select.random_sets import candidates
from mads_ray.pipeline.select.workers import BESIDE, SelectionWorkers
from mads_ray.states import CapturedShard, read_matrix
from mads_ray.submodular.greedy import first_fitting
from mads_ray.submodular.problem import Bounds, Budget, Problem

Order = Callable[[Candidates, int], I64]


def baseline_places(
    method: Method,
    workers: SelectionWorkers,
    shards: list[CapturedShard],
    tree: ClusterTree,
    problem: Problem,
    in_one_place: int,
    our_tokens_K: I32 | None = None,
) -> I32:
    """Places (shard, row) of a baseline's core set in its order, int32 (K, 2).

    The driver sees a hash, a length and a place of every candidate (28 bytes), and its cluster
    where the method needs that. Sketches stay in tasks: all in one while they are at most
    `in_one_place`, else each shard orders its own and gives its share of the budget.
    """
    baseline = BASELINES[method]
    parts = workers.ask(candidates, (problem.seed, BASELINE_ORDER))
    hashes, tokens, _, places = (np.concatenate(x) for x in zip(*parts, strict=True))
    size = len(tokens) if problem.budget.rows is None else problem.budget.rows
    rows = Candidates(hashes, tokens)
    if "our_lengths" in baseline.needs:
        assert our_tokens_K is not None
        rows = replace(rows, our_tokens_K=our_tokens_K)
    if "cluster" in baseline.needs:
        leaf_N, distance_N = _nearest(shards, tree, places)
        rows = replace(rows, leaf_N=leaf_N, distance_N=distance_N)
    if "sketch" in baseline.needs:
        order = _by_sketch(baseline.order, rows, shards, places, size, in_one_place)
    else:
        order = baseline.order(rows, size)
    return _within(places[order], tokens[order], problem.budget)


def _within(places_N2: I32, tokens_N: I32, budget: Budget) -> I32:
    """As much of an order as the budget holds; a row that is too long is passed over, as greedy
    passes over it."""
    n = len(tokens_N)
    groups, every = np.empty((n, 0), np.int32), np.arange(n, dtype=np.uint64)
    return places_N2[first_fitting(every, tokens_N, groups, Bounds.none(), budget)]


def _nearest(shards: list[CapturedShard], tree: ClusterTree, places_N2: I32) -> tuple[I32, F64]:
    """Leaf of every candidate, and its distance to the leaf's centroid."""
    leaf_N, distance_N = np.empty(len(places_N2), np.int32), np.empty(len(places_N2))
    answers = map_tasks(_assign, ((s, tree) for s in shards), BESIDE)
    for shard, (leaves, distances) in zip(shards, answers, strict=True):
        mine = np.flatnonzero(places_N2[:, 0] == shard.shard)
        leaf_N[mine] = leaves[places_N2[mine, 1]]
        distance_N[mine] = distances[places_N2[mine, 1]]
    return leaf_N, distance_N


def _assign(shard: CapturedShard, tree: ClusterTree) -> tuple[I32, F64]:
    return tree.assign(_sketches(shard))


def _by_sketch(
    order: Order,
    rows: Candidates,
    shards: list[CapturedShard],
    places_N2: I32,
    size: int,
    in_one_place: int,
) -> I64:
    """An order that needs sketches, in tasks that read them."""
    canonical_N = np.lexsort((places_N2[:, 1], places_N2[:, 0]))
    shard_N, row_N = places_N2[canonical_N].T
    numbers = [s.shard for s in shards]
    starts = np.searchsorted(shard_N, numbers, "left")
    stops = np.searchsorted(shard_N, numbers, "right")
    mine = [slice(a, b) for a, b in zip(starts, stops, strict=True)]
    if len(row_N) <= in_one_place:
        call = (order, rows.take(canonical_N), size, shards, [row_N[m] for m in mine])
        picks: I64 = next(map_tasks(_ordered, [call], BESIDE))
        return canonical_N[picks]
    quotas = np.diff(np.round(np.array([0, *stops]) * size / len(row_N)).astype(int))
    calls = (
        (order, rows.take(canonical_N[m]), int(quota), [shard], [row_N[m]])
        for shard, m, quota in zip(shards, mine, quotas, strict=True)
    )
    found = zip(mine, map_tasks(_ordered, calls, BESIDE), strict=True)
    return np.concatenate([canonical_N[m][picks] for m, picks in found])


def _ordered(
    order: Order, rows: Candidates, size: int, shards: list[CapturedShard], row_N: list[I32]
) -> I64:
    """Row numbers in a method's order, of the candidates `row_N` of each of some shards."""
    parts = [_sketches(s)[mine] for s, mine in zip(shards, row_N, strict=True)]
    return order(replace(rows, sketches_NS=np.concatenate(parts)), size)


def _sketches(shard: CapturedShard) -> npt.NDArray[np.float16]:
    """float16 (N, S)."""
    return read_matrix(shard.read(["sketch"]), "sketch")


def raw_union(options: SelectionConfig) -> SelectionConfig:
    """The literature's neuron coverage: raw top-k neurons, each counts once, no clusters."""
    return options.model_copy(
        update={
            "objective": "union",
            "weights": "uniform",
            "tree_share": 0.0,
            "quality_column": None,
        }
    )
