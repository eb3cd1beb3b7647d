"""Random draws over rows that nobody has together: the smallest hashes, found by histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mads_ray.arrays import I32, I64, U64
from mads_ray.hashing import RandomStream
from mads_ray.pipeline.select.workers import HolderPool
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.shards import HeldShard

HASH_BINS = 2**16


def find_cuts(
    pool: HolderPool, level: int, streams: Sequence[RandomStream], costs_B: I64, by_cost: bool
) -> U64:
    """Hash up to which each stream's order may be taken within each cost, (streams, B).

    Costs are rows, or tokens, ascending. One histogram over 2^16 bins tells the bin of every cut;
    only the hashes in those bins come to the driver.
    """
    histogram = pool.sum(_histogram, level, streams, by_cost, level=level)
    before = np.cumsum(histogram, axis=1) - histogram
    # The last bin that starts within the cost holds the cut (or all of it fits).
    at_SB = [np.searchsorted(b, costs_B, side="right") - 1 for b in before]
    bins = [np.unique(at_B) for at_B in at_SB]
    answers = pool.each(_hashes_in, level, streams, bins, level=level)
    cuts = np.zeros((len(streams), len(costs_B)), np.uint64)
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
            cuts[s, b] = last[-1] if len(last) else below
    return cuts


def draw_counts(
    shards: Sequence[HeldShard], objective: Objective, streams: Sequence[RandomStream], cuts_SB: U64
) -> I32:
    """Counts of the examples with a hash up to each cut of each stream, (streams, B, D)."""
    out = np.zeros((*cuts_SB.shape, len(objective.weight_D)), np.int32)
    for held in shards:
        rows, candidates = held.rows(), np.flatnonzero(held.depth_N >= -1)
        for s, stream in enumerate(streams):
            hashes = held.hashes(stream)[candidates]
            add_counts_below(rows, objective, candidates, hashes, cuts_SB[s], out[s])
    return np.cumsum(out, axis=1, dtype=np.int32)


def candidates(
    shards: Sequence[HeldShard], objective: Objective, stream: RandomStream
) -> tuple[U64, I32, I32, I32]:
    """(hash, tokens, groups, place) of every candidate: for what only the whole can decide."""
    parts = []
    for held in shards:
        mine = np.flatnonzero(held.depth_N >= -1)
        columns = (held.hashes(stream), held.tokens_N, held.groups_NT, held.places())
        parts.append([c[mine] for c in columns])
    hashes, tokens, groups, places = (np.concatenate(x) for x in zip(*parts, strict=True))
    return hashes, tokens, groups, places


def _histogram(
    shards: Sequence[HeldShard],
    objective: Objective,
    level: int,
    streams: Sequence[RandomStream],
    by_cost: bool,
) -> I64:
    """Cost of a level's candidates by the top 16 bits of their hash, (streams, bins)."""
    out = np.zeros((len(streams), HASH_BINS), np.int64)
    for held in shards:
        mine = np.flatnonzero(held.depth_N >= level - 1)
        cost = held.tokens_N[mine] if by_cost else np.ones(len(mine), np.int64)
        for s, stream in enumerate(streams):
            np.add.at(out[s], _bins(held, stream)[mine], cost)
    return out


def _hashes_in(
    shards: Sequence[HeldShard],
    objective: Objective,
    level: int,
    streams: Sequence[RandomStream],
    bins: Sequence[I64],
) -> list[tuple[U64, I32]]:
    """(hash, tokens) of a level's candidates in the given bins of every stream."""
    found: list[list[tuple[U64, I32]]] = [[] for _ in streams]
    for held in shards:
        for s, stream in enumerate(streams):
            here = (held.depth_N >= level - 1) & np.isin(_bins(held, stream), bins[s])
            found[s].append((held.hashes(stream)[here], held.tokens_N[here]))
    return [(np.concatenate([h for h, _ in f]), np.concatenate([t for _, t in f])) for f in found]


def _bins(held: HeldShard, stream: RandomStream) -> I64:
    return (held.hashes(stream) >> np.uint64(48)).astype(np.int64)


def add_counts_below(
    rows: FeatureRows,
    objective: Objective,
    index_M: I64,
    hashes_M: U64,
    cuts_B: U64,
    counts_BD: I32,
) -> None:
    """Add the counts of {rows at `index_M` with hash in (cut before, cut]} for ascending cuts.

    Counts of shards add up, so a draw over the whole corpus never gathers its rows; their
    cumulative sum over B are the counts of the draws.
    """
    bucket_M = np.searchsorted(cuts_B, hashes_M, side="left")
    for b in range(len(cuts_B)):
        objective.add_counts(rows, index_M[bucket_M == b], counts_BD[b])
