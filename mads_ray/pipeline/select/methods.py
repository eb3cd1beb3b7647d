"""What a user would select by instead: the same budget, other methods."""

from __future__ import annotations

import numpy as np

from mads_ray.arrays import F64, I32, I64
from mads_ray.baselines import k_center, length_counts, length_edges, length_matched, round_robin
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import Method, RunConfig
from mads_ray.hashing import BASELINE_ORDER
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.pipeline.select.random_sets import candidates
from mads_ray.pipeline.select.rank import Ranked
from mads_ray.pipeline.select.workers import BESIDE, SelectionWorkers
from mads_ray.states import CapturedShard, read_matrix, read_states
from mads_ray.submodular.greedy import first_fitting
from mads_ray.submodular.problem import Bounds, Budget

_LENGTH_BINS = 20


def baseline_places(
    method: Method,
    workers: SelectionWorkers,
    shards: list[CapturedShard],
    tree: ClusterTree,
    config: RunConfig,
    budget: Budget,
    ours: Ranked,
) -> I32:
    """Places of a baseline's core set, in its order.

    The driver sees a hash, a length and a place of every candidate (28 bytes), for k-means and
    k-center also its cluster.
    """
    parts = workers.ask(candidates, (config.seed, BASELINE_ORDER))
    hashes, tokens, _, places = (np.concatenate(x) for x in zip(*parts, strict=True))
    size = len(tokens) if budget.rows is None else budget.rows
    if method == "random":
        order = np.argsort(hashes, kind="stable")
    elif method == "length-matched-random":
        edges = length_edges(ours.tokens_K, _LENGTH_BINS)
        order = length_matched(tokens, hashes, length_counts(ours.tokens_K, edges), edges)
    elif method == "kmeans":
        leaves, distances = _nearest(shards, tree, places)
        order = round_robin(leaves, distances, hashes, size)
    elif method == "k-center":
        order = _k_center(shards, places, size, config.selection.exact_rows)
    else:
        raise AssertionError(method)
    return _within(places[order], tokens[order], budget)


def _within(places_N2: I32, tokens_N: I32, budget: Budget) -> I32:
    """As much of an order as the budget holds; a row that is too long is passed over, as greedy
    passes over it."""
    n = len(tokens_N)
    groups, every = np.empty((n, 0), np.int32), np.arange(n, dtype=np.uint64)
    return places_N2[first_fitting(every, tokens_N, groups, Bounds.none(), budget)]


def raw_union(config: RunConfig) -> RunConfig:
    """The literature's neuron coverage: raw top-k neurons, each counts once, no clusters."""
    options = config.selection.model_copy(
        update={
            "objective": "union",
            "weights": "uniform",
            "tree_share": 0.0,
            "quality_column": None,
        }
    )
    return config.model_copy(update={"selection": options})


def _nearest(shards: list[CapturedShard], tree: ClusterTree, places_N2: I32) -> tuple[I32, F64]:
    leaves = np.empty(len(places_N2), np.int32)
    distances = np.empty(len(places_N2))
    answers = map_tasks(_assign, ((s, tree) for s in shards), BESIDE)
    for shard, (leaf_N, distance_N) in zip(shards, answers, strict=True):
        mine = np.flatnonzero(places_N2[:, 0] == shard.shard)
        leaves[mine] = leaf_N[places_N2[mine, 1]]
        distances[mine] = distance_N[places_N2[mine, 1]]
    return leaves, distances


def _assign(shard: CapturedShard, tree: ClusterTree) -> tuple[I32, F64]:
    return tree.assign(read_matrix(read_states(shard.states, ["sketch"]), "sketch"))


def _k_center(shards: list[CapturedShard], places_N2: I32, size: int, in_one_place: int) -> I64:
    """Farthest-first over all sketches in one task while they are few, else within each shard."""
    order = np.lexsort((places_N2[:, 1], places_N2[:, 0]))
    rows = places_N2[order, 1]
    starts = np.searchsorted(places_N2[order, 0], [s.shard for s in shards], "left")
    stops = np.searchsorted(places_N2[order, 0], [s.shard for s in shards], "right")
    spans = list(zip(starts, stops, strict=True))
    if len(places_N2) <= in_one_place:
        calls = [(shards, [rows[a:b] for a, b in spans], size)]
        whole: I64 = order[next(map_tasks(_farthest, calls, BESIDE))]
        return whole
    cuts = np.round(np.array([0, *stops]) * size / len(rows)).astype(int)
    quotas = np.diff(cuts)
    calls = [([s], [rows[a:b]], int(q)) for s, (a, b), q in zip(shards, spans, quotas, strict=True)]
    found = zip(spans, map_tasks(_farthest, calls, BESIDE), strict=True)
    return np.concatenate([order[a:][picks] for (a, _), picks in found])


def _farthest(shards: list[CapturedShard], rows: list[I32], size: int) -> I64:
    sketches = [
        read_matrix(read_states(s.states, ["sketch"]), "sketch")[r]
        for s, r in zip(shards, rows, strict=True)
    ]
    return k_center(np.concatenate(sketches), size)[0]
