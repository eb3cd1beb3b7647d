"""Random sets of rows that lie in many workers: those with the smallest hashes.

No process sees all hashes. A histogram of their top 16 bits tells the bin in which a set ends, and
only the hashes of that bin come to the driver.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mads_ray.arrays import I32, I64, U64
from mads_ray.hashing import RandomStream
from mads_ray.pipeline.select.workers import SelectionWorkers
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.shards import LoadedShard

HASH_BINS = 2**16


def hash_thresholds(
    workers: SelectionWorkers,
    depth: int,
    streams: Sequence[RandomStream],
    costs_B: I64,
    by_cost: bool,
) -> U64:
    """Largest hashes of random sets, uint64 (streams, B).

    Each stream orders the candidates of a depth by their hash. A set is the longest start of that
    order within a cost. `costs_B`: int64 (B,), in rows or, `by_cost`, in tokens, ascending.
    """
    histogram = workers.sum(_histogram, depth, streams, by_cost, depth=depth)
    before = np.cumsum(histogram, axis=1) - histogram
    # The last bin that starts within the cost holds the threshold (or all of it fits).
    at_SB = [np.searchsorted(b, costs_B, side="right") - 1 for b in before]
    bins = [np.unique(at_B) for at_B in at_SB]
    answers = workers.ask(_hashes_in, depth, streams, bins, depth=depth)
    thresholds_SB = np.zeros((len(streams), len(costs_B)), np.uint64)
    for s in range(len(streams)):
        hashes = np.concatenate([a[s][0] for a in answers])
        tokens = np.concatenate([a[s][1] for a in answers])
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        spent = (tokens[order] if by_cost else np.ones(len(order))).astype(np.int64)
        top = (hashes >> np.uint64(48)).astype(np.int64)
        for b, cost in enumerate(costs_B):
            mine = top == at_SB[s][b]
            within = before[s, at_SB[s][b]] + np.cumsum(spent[mine]) <= cost
            last = hashes[mine][within]
            # Where no row of the bin fits, everything below the bin does.
            below = max((int(at_SB[s][b]) << 48) - 1, 0)
            thresholds_SB[s, b] = last[-1] if len(last) else below
    return thresholds_SB


def random_set_counts(
    shards: Sequence[LoadedShard],
    objective: Objective,
    streams: Sequence[RandomStream],
    thresholds_SB: U64,
) -> I32:
    """How many rows of each random set have each feature, int32 (streams, B, D)."""
    out = np.zeros((*thresholds_SB.shape, len(objective.weight_D)), np.int32)
    for shard in shards:
        rows, index_M = shard.rows(), np.flatnonzero(shard.candidates(0))
        for s, stream in enumerate(streams):
            hashes_M = shard.hashes(stream)[index_M]
            add_counts_below(rows, objective, index_M, hashes_M, thresholds_SB[s], out[s])
    return np.cumsum(out, axis=1, dtype=np.int32)


def candidates(
    shards: Sequence[LoadedShard], objective: Objective, stream: RandomStream
) -> tuple[U64, I32, I32, I32]:
    """(hash, tokens, groups, place) of every candidate: for what only the whole can decide."""
    parts = []
    for shard in shards:
        mine = np.flatnonzero(shard.candidates(0))
        columns = (shard.hashes(stream), shard.tokens_N, shard.groups_NT, shard.places())
        parts.append([c[mine] for c in columns])
    hashes, tokens, groups, places = (np.concatenate(x) for x in zip(*parts, strict=True))
    return hashes, tokens, groups, places


def _histogram(
    shards: Sequence[LoadedShard],
    objective: Objective,
    depth: int,
    streams: Sequence[RandomStream],
    by_cost: bool,
) -> I64:
    """Cost of the candidates of a depth by the top 16 bits of their hash, (streams, bins)."""
    out = np.zeros((len(streams), HASH_BINS), np.int64)
    for shard in shards:
        mine = np.flatnonzero(shard.candidates(depth))
        cost = shard.tokens_N[mine] if by_cost else np.ones(len(mine), np.int64)
        for s, stream in enumerate(streams):
            np.add.at(out[s], _bins(shard, stream)[mine], cost)
    return out


def _hashes_in(
    shards: Sequence[LoadedShard],
    objective: Objective,
    depth: int,
    streams: Sequence[RandomStream],
    bins: Sequence[I64],
) -> list[tuple[U64, I32]]:
    """(hash, tokens) of the candidates of a depth in the given bins of every stream."""
    found: list[list[tuple[U64, I32]]] = [[] for _ in streams]
    for shard in shards:
        for s, stream in enumerate(streams):
            here = shard.candidates(depth) & np.isin(_bins(shard, stream), bins[s])
            found[s].append((shard.hashes(stream)[here], shard.tokens_N[here]))
    return [(np.concatenate([h for h, _ in f]), np.concatenate([t for _, t in f])) for f in found]


def _bins(shard: LoadedShard, stream: RandomStream) -> I64:
    return (shard.hashes(stream) >> np.uint64(48)).astype(np.int64)


def add_counts_below(
    rows: FeatureRows,
    objective: Objective,
    index_M: I64,
    hashes_M: U64,
    thresholds_B: U64,
    counts_BD: I32,
) -> None:
    """Add the counts of the rows at `index_M` whose hash is in (threshold before, threshold].

    Thresholds ascend. Counts of shards add up, and their cumulative sum over B is the counts of the
    random sets: no process needs all rows of a set.
    """
    bucket_M = np.searchsorted(thresholds_B, hashes_M, side="left")
    for b in range(len(thresholds_B)):
        objective.add_counts(rows, index_M[bucket_M == b], counts_BD[b])
