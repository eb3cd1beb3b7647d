"""Actors that hold shards: the only place where features live.

What goes in are counts, cuts and places (shard and row); what comes out are sums over rows, and the
rows of a bounded pool. Sums are of integers, so the spread of shards over holders does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from mads_ray.corpus.identity import hash_words
from mads_ray.coverage.baseline import counts_below
from mads_ray.coverage.certificate import PriceHistogram
from mads_ray.coverage.exchange import Appraisal, Change, Offers, appraise, reselect
from mads_ray.coverage.greedy import Bounds, Budget, block_of
from mads_ray.coverage.held import HeldShard
from mads_ray.coverage.kernels import appraise as price
from mads_ray.coverage.near_duplicates import band_keys, bands_for
from mads_ray.coverage.objective import I32, I64, Objective
from mads_ray.coverage.rows import FeatureRows
from mads_ray.errors import MadsRayError

U64 = npt.NDArray[np.uint64]
Stream = tuple[int, int]  # seed and number of a random order: see corpus.identity.seeded_hash
HASH_BINS = 2**16


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Near-duplicate keys (N, bands), ids (shard << 32 | row) and tie hashes of some rows."""

    keys_NB: U64
    ids_N: I64
    ties_N: U64


class Holder:
    """Some shards and the objective; `load(*args)` runs in the actor and brings both.

    A level is a set of rows and its candidates: level 0 is the core set out of all examples, level
    d + 1 a smaller set out of level d. Rows of level d have a depth of at least d.
    """

    def __init__(
        self, load: Callable[..., tuple[list[HeldShard], Objective]], args: tuple[Any, ...]
    ) -> None:
        self._groups = 0
        self._failure: MadsRayError | None = None
        try:
            shards, self._objective = load(*args)
            self._shards = {s.shard: s for s in shards}
        except MadsRayError as e:  # from here it would only look like an actor that died
            self._failure = e
        self._pending: list[tuple[HeldShard, int, I64]] = []

    def ready(self) -> None:
        """Raises what went wrong for a user while loading."""
        if self._failure is not None:
            raise self._failure

    def facts(self) -> dict[str, float]:
        """CPU seconds so far; bytes of the columns in memory and of the neurons on disk."""
        times = psutil.Process().cpu_times()
        return {
            "pid": os.getpid(),
            "cpu_s": times.user + times.system,
            "memory": sum(s.nbytes for s in self._shards.values()),
            "scratch": sum({id(s.scratch): s.scratch.size for s in self._shards.values()}.values()),
        }

    # --- random draws ---

    def draw_histogram(self, level: int, streams: Sequence[Stream], by_tokens: bool) -> I64:
        """Cost of a level's candidates by the top 16 bits of their hash, (streams, bins)."""
        out = np.zeros((len(streams), HASH_BINS), np.int64)
        for held in self._shards.values():
            mine = np.flatnonzero(held.depth_N >= level - 1)
            cost = held.tokens_N[mine] if by_tokens else np.ones(len(mine), np.int64)
            for s, stream in enumerate(streams):
                np.add.at(out[s], _bins(held, stream)[mine], cost)
        return out

    def draw_hashes(
        self, level: int, streams: Sequence[Stream], bins: Sequence[I64]
    ) -> list[tuple[U64, I32]]:
        """(hash, tokens) of a level's candidates in the given bins of every stream."""
        found: list[list[tuple[U64, I32]]] = [[] for _ in streams]
        for held in self._shards.values():
            for s, stream in enumerate(streams):
                here = (held.depth_N >= level - 1) & np.isin(_bins(held, stream), bins[s])
                found[s].append((_hashes(held, stream)[here], held.tokens_N[here]))
        return [
            (np.concatenate([h for h, _ in f]), np.concatenate([t for _, t in f])) for f in found
        ]

    def draw_counts(self, streams: Sequence[Stream], cuts_SB: U64) -> I32:
        """Counts of the examples with a hash up to each cut of each stream, (streams, B, D)."""
        total: I32 | None = None
        for held in self._shards.values():
            rows = held.rows()
            open_ = np.flatnonzero(held.depth_N >= -1)
            part = np.stack(
                [
                    counts_below(rows, self._objective, open_, _hashes(held, stream)[open_], cuts)
                    for stream, cuts in zip(streams, cuts_SB, strict=True)
                ]
            )
            total = part if total is None else total + part
        assert total is not None
        return total

    def candidates(self, stream: Stream) -> tuple[U64, I32, I32, I32]:
        """(hash, tokens, groups, place) of every candidate: for bounds, which are global."""
        parts = []
        for held in self._shards.values():
            mine = np.flatnonzero(held.depth_N >= -1)
            columns = (_hashes(held, stream), held.tokens_N, held.groups_NT, held.places())
            parts.append([c[mine] for c in columns])
        hashes, tokens, groups, places = (np.concatenate(x) for x in zip(*parts, strict=True))
        return hashes, tokens, groups, places

    def places(self) -> I32:
        """Places of all candidates."""
        return np.concatenate([h.places()[h.depth_N >= -1] for h in self._shards.values()])

    def keys(self, threshold: float, per_layer: int, bucket: int, buckets: int) -> Keys:
        """Near-duplicate keys of the candidates whose cluster falls in a bucket."""
        bands = bands_for(threshold)
        parts = []
        for held in self._shards.values():
            leaf_N = held.paths_NP[:, -1]
            mine = np.flatnonzero((held.depth_N >= -1) & (leaf_N % buckets == bucket))
            neurons = held.rows().neurons_NA[mine]
            ids = (np.int64(held.shard) << 32) + mine
            keys = band_keys(neurons, per_layer, leaf_N[mine], *bands)
            parts.append(Keys(keys, ids, held.ties_N[mine]))
        return Keys(
            np.concatenate([p.keys_NB for p in parts]),
            np.concatenate([p.ids_N for p in parts]),
            np.concatenate([p.ties_N for p in parts]),
        )

    def sum_of(self, places_K2: I32, groups: int) -> Change:
        """What the rows at some places (of any holder) add up to."""
        total = Change.none(self._objective, groups)
        for held, index in self._mine(places_K2):
            total = total + Change.of(held.rows(), index, self._objective, groups)
        return total

    def uids(self, places_K2: I32) -> list[tuple[I64, U64]]:
        """(positions in `places_K2`, uid halves) of the rows held here."""
        found = []
        for shard, at in places_by_shard(places_K2).items():
            if shard in self._shards:
                found.append((at, self._shards[shard].uids_N2[places_K2[at, 1]]))
        return found

    # --- quality ---

    def quality_range(self) -> tuple[float, float]:
        """Smallest and largest quality held here."""
        values = [h.quality_N for h in self._shards.values() if h.quality_N is not None]
        return float(min(v.min() for v in values)), float(max(v.max() for v in values))

    def reward(self, low: float, high: float, most: int) -> None:
        """Bonuses from 0 for the lowest quality to `most` for the highest."""
        for held in self._shards.values():
            assert held.quality_N is not None
            share = (held.quality_N - low) / max(high - low, 1e-300)
            held.bonus_N = np.rint(share * most).astype(np.int64)

    # --- coverage sets ---

    def begin(self, level: int, stream: Stream, cut: np.uint64, groups: int) -> Change:
        """A level starts from the candidates with a hash up to the cut."""
        self._groups = groups
        chosen = [
            (held, np.flatnonzero((held.depth_N >= level - 1) & (_hashes(held, stream) <= cut)))
            for held in self._shards.values()
        ]
        return self._enter(level, chosen)

    def begin_at(self, level: int, places_K2: I32, groups: int) -> Change:
        """A level starts from the rows at some places (of any holder)."""
        self._groups = groups
        return self._enter(level, self._mine(places_K2))

    def _enter(self, level: int, chosen: Sequence[tuple[HeldShard, I64]]) -> Change:
        total = Change.none(self._objective, self._groups)
        for held in self._shards.values() if level == 0 else []:
            held.depth_N[held.depth_N >= 0] = -1
        for held, index in chosen:
            held.depth_N[index] = level
            total = total + Change.of(held.rows(), index, self._objective, self._groups)
        return total

    def reselect(
        self,
        level: int,
        shards: Sequence[int],
        counts_D: I32,
        used_G: I64,
        bounds: Bounds,
        by_tokens: bool,
        spare_tokens: int,
    ) -> Change:
        """Select the coverage sets of some shards again; `settle` says whether to keep them."""
        total = Change.none(self._objective, self._groups)
        for shard in shards:
            held = self._shards[shard]
            chosen_N = held.depth_N >= level
            own_tokens = int(held.tokens_N[chosen_N].sum())
            budget = (
                Budget(tokens=own_tokens + spare_tokens)
                if by_tokens
                else Budget(rows=int(chosen_N.sum()))
            )
            picks, change = reselect(
                held.rows(),
                held.rank_N,
                held.depth_N >= level - 1,
                chosen_N,
                self._objective,
                counts_D,
                used_G,
                bounds,
                budget,
            )
            self._pending.append((held, level, picks))
            total = total + change
        return total

    def settle(self, keep: bool) -> None:
        """Keep or forget what was selected since the last time."""
        for held, level, picks in self._pending if keep else []:
            held.depth_N[held.depth_N >= level] = level - 1
            held.depth_N[picks] = level
        self._pending.clear()

    def move(self, level: int, leave_K2: I32, enter_K2: I32) -> None:
        """Take rows out of a level and put others in (places of any holder)."""
        for held, index in self._mine(leave_K2):
            held.depth_N[index] = level - 1
        for held, index in self._mine(enter_K2):
            held.depth_N[index] = level

    def exclude(self, places_K2: I32) -> int:
        """These rows are no candidates any more; returns how many are held here."""
        mine = self._mine(places_K2)
        for held, index in mine:
            held.depth_N[index] = -2
        return sum(len(index) for _, index in mine)

    # --- prices ---

    def appraise(
        self, level: int, counts_D: I32, by_tokens: bool, most: int, width: int
    ) -> Appraisal:
        """Offers for a pool and the histogram of gains, over a level's candidates."""
        parts = [
            appraise(
                held.rows(),
                held.places(),
                held.ties_N,
                held.depth_N >= level - 1,
                held.depth_N >= level,
                self._objective,
                counts_D,
                by_tokens,
                most,
                width,
            )
            for held in self._shards.values()
        ]
        return merge_appraisals(parts, most)

    def histograms(self, at: Sequence[tuple[I32, int]], by_tokens: bool) -> list[PriceHistogram]:
        """Histograms of the candidates' gains at several (counts, bin width)."""
        totals: list[PriceHistogram | None] = [None] * len(at)
        for held in self._shards.values():
            rows, open_N = held.rows(), held.depth_N >= -1
            block = block_of(rows, held.rank_N, by_tokens, open_N)
            none = np.zeros(len(held), np.bool_)
            for i, (counts_D, width) in enumerate(at):
                prices = self._objective.prices(counts_D)
                gain_N, _ = price(block, self._objective.space, none, prices, prices)
                part = PriceHistogram.of(gain_N[open_N], block.cost_N[open_N], width)
                so_far = totals[i]
                totals[i] = part if so_far is None else so_far + part
        return [t for t in totals if t is not None]

    def worth(self, depth: int, counts_D: I32, by_tokens: bool) -> Offers:
        """Rows of exactly this depth with their gain (per token)."""
        prices = self._objective.prices(counts_D)
        parts = []
        for held in self._shards.values():
            open_N = held.depth_N == depth
            block = block_of(held.rows(), held.rank_N, by_tokens, open_N)
            none = np.zeros(len(held), np.bool_)
            gain_N, _ = price(block, self._objective.space, none, prices, prices)
            index = np.flatnonzero(open_N)
            key_N = gain_N[index] / block.cost_N[index]
            parts.append(
                Offers(key_N, held.ties_N[index], held.places()[index], block.cost_N[index])
            )
        return Offers.merge(parts, sum(len(p.key_N) for p in parts))

    def fetch(self, places_K2: I32) -> FeatureRows:
        """The rows at some places, all of them held here, in the order given."""
        order = np.argsort(places_K2[:, 0], kind="stable")
        parts = [held.rows().take(index) for held, index in self._mine(places_K2)]
        if not parts:
            any_shard = next(iter(self._shards.values()))
            return any_shard.rows().take(np.empty(0, np.int64))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return FeatureRows.concat(parts).take(back)

    def _mine(self, places_K2: I32) -> list[tuple[HeldShard, I64]]:
        """The places that are held here, by shard in ascending order."""
        order = np.argsort(places_K2[:, 0], kind="stable")
        shard_K, row_K = places_K2[order].T
        found = []
        for shard in sorted(self._shards):
            start, stop = np.searchsorted(shard_K, [shard, shard + 1])
            if stop > start:
                found.append((self._shards[shard], row_K[start:stop].astype(np.int64)))
        return found


def places_by_shard(places_K2: I32) -> dict[int, I64]:
    """Positions in `places_K2` of each shard's rows, ascending."""
    order = np.argsort(places_K2[:, 0], kind="stable")
    numbers, starts = np.unique(places_K2[order, 0], return_index=True)
    stops = np.append(starts[1:], len(order))
    return {int(s): order[a:b] for s, a, b in zip(numbers, starts, stops, strict=True)}


def merge_appraisals(parts: Sequence[Appraisal], most: int) -> Appraisal:
    """The best offers of all and the sum of histograms."""
    histogram = parts[0].histogram
    for part in parts[1:]:
        histogram = histogram + part.histogram
    return Appraisal(
        Offers.merge([p.weakest for p in parts], most),
        Offers.merge([p.wanted for p in parts], most),
        histogram,
    )


def _hashes(held: HeldShard, stream: Stream) -> U64:
    return hash_words(held.uids_N2[:, 0], held.uids_N2[:, 1], *stream)


def _bins(held: HeldShard, stream: Stream) -> I64:
    return (_hashes(held, stream) >> np.uint64(48)).astype(np.int64)
