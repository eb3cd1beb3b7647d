"""The actor that holds states of a selection: neurons are nowhere else.

A worker gets counts, hash thresholds and places (a shard, and a row in it). It answers with sums
over its rows, and with the rows of an exchange buffer. Sums are of integers, so it does not matter
which worker has which shards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mads_ray.arrays import I32, I64
from mads_ray.errors import MadsRayError
from mads_ray.hashing import RandomStream
from mads_ray.storage import write_npz
from mads_ray.submodular.exchange import Appraisal, appraise, reselect
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.problem import Bounds, Budget, Problem
from mads_ray.submodular.rows import FeatureRows
from mads_ray.submodular.shards import LoadedShard, Scratch, rows_of
from mads_ray.submodular.totals import Delta, Totals


class SelectionWorker:
    """Some shards, and the objective. `load(*args)` runs in the actor and brings both.

    The set of depth 0 is the core set, selected from all candidates. The set of depth d + 1 is
    selected from that of depth d, to rank it. See `LoadedShard.depth_N`.
    """

    def __init__(
        self, load: Callable[..., tuple[list[LoadedShard], Objective]], args: tuple[Any, ...]
    ) -> None:
        self._failure: MadsRayError | None = None
        try:
            shards, self._objective = load(*args)
            self._shards = {s.shard: s for s in shards}
            self._inner: dict[int, LoadedShard] | None = None  # the core set's rows, for depths > 0
        except MadsRayError as e:  # from here it would only look like an actor that died
            self._failure = e
        self._proposed: list[tuple[LoadedShard, int, I64]] = []

    def ready(self) -> None:
        """Raises what went wrong for a user while loading."""
        if self._failure is not None:
            raise self._failure

    def run(self, depth: int, function: Callable[..., Any], *args: Any) -> Any:
        """`function(shards, objective, *args)`: for work that does not change what is selected."""
        return function(self._at(depth), self._objective, *args)

    def _at(self, depth: int) -> list[LoadedShard]:
        """Shards with at least the candidates of a depth."""
        inner = self._inner if depth > 0 else None
        return list((self._shards if inner is None else inner).values())

    def narrow(self, folder: str | None) -> None:
        """Copy the rows of the core set together: smaller sets are selected from these alone."""
        scratch = Scratch(folder)
        self._inner = {
            number: shard.narrowed(np.flatnonzero(shard.selected(0)), scratch)
            for number, shard in self._shards.items()
        }

    def weigh(self, weight_D: I64) -> None:
        """Weights of the features from now on."""
        self._objective = replace(self._objective, weight_D=weight_D)

    def facts(self) -> dict[str, float]:
        """CPU seconds so far; bytes of the columns in memory and of the neurons on disk."""
        times = psutil.Process().cpu_times()
        shards = [*self._shards.values(), *(self._inner or {}).values()]
        return {
            "pid": os.getpid(),
            "cpu_s": times.user + times.system,
            "memory": sum(s.nbytes for s in shards),
            "scratch": sum({id(s.scratch): s.scratch.size for s in shards}.values()),
        }

    def places(self) -> I32:
        """Places of all candidates."""
        return np.concatenate([s.places()[s.candidates(0)] for s in self._shards.values()])

    # --- the selected rows ---

    def begin(self, depth: int, stream: RandomStream, threshold: np.uint64) -> Delta:
        """A set without bounds starts with the candidates whose hash is up to the threshold."""
        selected = [
            (shard, np.flatnonzero(shard.candidates(depth) & (shard.hashes(stream) <= threshold)))
            for shard in self._at(depth)
        ]
        return self._enter(depth, selected, 0)

    def begin_at(self, depth: int, places_K2: I32, groups: int) -> Delta:
        """A set starts with the rows at some places (of any worker)."""
        return self._enter(depth, rows_of(self._at(depth), places_K2), groups)

    def _enter(self, depth: int, selected: Sequence[tuple[LoadedShard, I64]], groups: int) -> Delta:
        total = Delta.none(self._objective, groups)
        if depth == 0:
            self._inner = None
            for shard in self._shards.values():
                shard.depth_N[shard.selected(0)] = -1
        for shard, index in selected:
            shard.depth_N[index] = depth
            total = total + Delta.of(shard.rows(), index, self._objective, groups)
        return total

    def reselect(
        self,
        accepted: bool,
        depth: int,
        shards: Sequence[int],
        budget: Budget,
        bounds: Bounds,
        now: Totals,
    ) -> Delta:
        """Select the rows of some shards again, and propose that.

        `accepted`: whether the last proposal counts. `now` sums over the selected rows of all
        workers; budget and bounds are those of each shard (see `Problem.shared`).
        """
        self.commit(accepted)
        problem = Problem(self._objective, budget, bounds)
        total = Delta.none(self._objective, len(bounds))
        mine = {shard.shard: shard for shard in self._at(depth)}
        for shard in (mine[number] for number in shards):
            picks, delta = reselect(
                shard.rows(),
                shard.selected(depth),
                problem,
                now,
                rank_N=shard.rank_N,
                open_N=shard.candidates(depth),
            )
            self._proposed.append((shard, depth, picks))
            total = total + delta
        return total

    def commit(self, accepted: bool) -> None:
        """Make the last proposal count, or forget it."""
        for shard, depth, picks in self._proposed if accepted else []:
            shard.depth_N[shard.selected(depth)] = depth - 1
            shard.depth_N[picks] = depth
        self._proposed.clear()

    def move(self, depth: int, leave_K2: I32, enter_K2: I32) -> None:
        """Take rows out of a set and put others in (places of any worker)."""
        for shard, index in rows_of(self._at(depth), leave_K2):
            shard.depth_N[index] = depth - 1
        for shard, index in rows_of(self._at(depth), enter_K2):
            shard.depth_N[index] = depth

    def exclude(self, places_K2: I32) -> int:
        """These rows are no candidates any more; returns how many of them are here."""
        mine = rows_of(self._shards.values(), places_K2)
        for shard, index in mine:
            shard.depth_N[index] = -2
        return sum(len(index) for _, index in mine)

    # --- rounds on disk ---

    def save(self, depth: int, folder: Path) -> str | OSError:
        """Write the depths of the candidates of a depth, one file for all shards.

        Returns its name, or what prevented it: the caller can do without.
        """
        shards = self._at(depth)
        depths = {str(shard.shard): shard.depth_N for shard in shards}
        name = f"depths-{shards[0].shard:05d}.npz"
        try:
            write_npz(folder / name, **depths)
        except OSError as e:
            return OSError(str(e))
        return name

    def restore(self, depth: int, files: Sequence[Path]) -> None:
        """Read them back, from whichever workers wrote them."""
        if depth == 0:
            self._inner = None
        missing = {str(shard.shard): shard for shard in self._at(depth)}
        for file in files:
            with np.load(file, allow_pickle=False) as depths:
                for number in missing.keys() & set(depths.files):
                    missing.pop(number).depth_N[:] = depths[number]
        assert not missing, f"{files} lack the shards {sorted(missing)}"

    # --- prices and rows ---

    def appraise(
        self, depth: int, counts_D: I32, by_cost: bool, most: int, width: int
    ) -> Appraisal:
        """Offers to the buffer and the histogram of gains, over the candidates of a depth."""
        how = (depth, self._objective, counts_D, by_cost, most, width)
        return Appraisal.merge([appraise(shard, *how) for shard in self._at(depth)])

    def fetch(self, depth: int, places_K2: I32) -> FeatureRows:
        """The rows at some places, candidates of a depth and all here, in the order given."""
        order = np.argsort(places_K2[:, 0], kind="stable")
        parts = [shard.rows().take(index) for shard, index in rows_of(self._at(depth), places_K2)]
        if not parts:
            any_shard = next(iter(self._shards.values()))
            return any_shard.rows().take(np.empty(0, np.int64))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return FeatureRows.concat(parts).take(back)
