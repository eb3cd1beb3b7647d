"""Actors that hold shards: the only place where features live.

What goes in are counts, cuts and places (shard and row); what comes out are sums over rows, and the
rows of a bounded pool. Sums are of integers, so the spread of shards over holders does not matter.
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
from mads_ray.submodular.shards import HeldShard, Scratch, rows_of
from mads_ray.submodular.totals import Delta, Totals


class Holder:
    """Some shards and the objective; `load(*args)` runs in the actor and brings both.

    A level is a set of rows and its candidates: level 0 is the core set out of all examples, level
    d + 1 a smaller set out of level d. Rows of level d have a depth of at least d.
    """

    def __init__(
        self, load: Callable[..., tuple[list[HeldShard], Objective]], args: tuple[Any, ...]
    ) -> None:
        self._failure: MadsRayError | None = None
        try:
            shards, self._objective = load(*args)
            self._shards = {s.shard: s for s in shards}
            self._inner: dict[int, HeldShard] | None = None  # the core set's rows, for levels > 0
        except MadsRayError as e:  # from here it would only look like an actor that died
            self._failure = e
        self._pending: list[tuple[HeldShard, int, I64]] = []

    def ready(self) -> None:
        """Raises what went wrong for a user while loading."""
        if self._failure is not None:
            raise self._failure

    def run(self, level: int, function: Callable[..., Any], *args: Any) -> Any:
        """`function(shards, objective, *args)`: for work that leaves the coverage sets alone."""
        return function(self._at(level), self._objective, *args)

    def _at(self, level: int) -> list[HeldShard]:
        """Shards with all candidates of a level."""
        inner = self._inner if level > 0 else None
        return list((self._shards if inner is None else inner).values())

    def narrow(self, folder: str | None) -> None:
        """Copy the rows of the core set together: further levels choose among them alone."""
        scratch = Scratch(folder)
        self._inner = {
            number: held.narrowed(np.flatnonzero(held.depth_N >= 0), scratch)
            for number, held in self._shards.items()
        }

    def weigh(self, weight_D: I64) -> None:
        """Weights of the features from now on."""
        self._objective = replace(self._objective, weight_D=weight_D)

    def facts(self) -> dict[str, float]:
        """CPU seconds so far; bytes of the columns in memory and of the neurons on disk."""
        times = psutil.Process().cpu_times()
        held = [*self._shards.values(), *(self._inner or {}).values()]
        return {
            "pid": os.getpid(),
            "cpu_s": times.user + times.system,
            "memory": sum(s.nbytes for s in held),
            "scratch": sum({id(s.scratch): s.scratch.size for s in held}.values()),
        }

    def places(self) -> I32:
        """Places of all candidates."""
        return np.concatenate([h.places()[h.depth_N >= -1] for h in self._shards.values()])

    # --- coverage sets ---

    def begin(self, level: int, stream: RandomStream, cut: np.uint64) -> Delta:
        """A level without bounds starts from the candidates with a hash up to the cut."""
        chosen = [
            (held, np.flatnonzero((held.depth_N >= level - 1) & (held.hashes(stream) <= cut)))
            for held in self._at(level)
        ]
        return self._enter(level, chosen, 0)

    def begin_at(self, level: int, places_K2: I32, groups: int) -> Delta:
        """A level starts from the rows at some places (of any holder)."""
        return self._enter(level, rows_of(self._at(level), places_K2), groups)

    def _enter(self, level: int, chosen: Sequence[tuple[HeldShard, I64]], groups: int) -> Delta:
        total = Delta.none(self._objective, groups)
        if level == 0:
            self._inner = None
            for held in self._shards.values():
                held.depth_N[held.depth_N >= 0] = -1
        for held, index in chosen:
            held.depth_N[index] = level
            total = total + Delta.of(held.rows(), index, self._objective, groups)
        return total

    def reselect(
        self,
        keep_last: bool,
        level: int,
        shards: Sequence[int],
        budget: Budget,
        bounds: Bounds,
        now: Totals,
    ) -> Delta:
        """Propose new coverage sets of some shards, after the verdict on the last proposal."""
        self.settle(keep_last)
        problem = Problem(self._objective, budget, bounds)
        total = Delta.none(self._objective, len(bounds))
        held_here = {held.shard: held for held in self._at(level)}
        for shard in shards:
            held = held_here[shard]
            open_N, selected_N = held.depth_N >= level - 1, held.depth_N >= level
            picks, delta = reselect(
                held.rows(), selected_N, problem, now, rank_N=held.rank_N, open_N=open_N
            )
            self._pending.append((held, level, picks))
            total = total + delta
        return total

    def settle(self, keep: bool) -> None:
        """Keep or forget the last proposal."""
        for held, level, picks in self._pending if keep else []:
            held.depth_N[held.depth_N >= level] = level - 1
            held.depth_N[picks] = level
        self._pending.clear()

    def move(self, level: int, leave_K2: I32, enter_K2: I32) -> None:
        """Take rows out of a level and put others in (places of any holder)."""
        for held, index in rows_of(self._at(level), leave_K2):
            held.depth_N[index] = level - 1
        for held, index in rows_of(self._at(level), enter_K2):
            held.depth_N[index] = level

    def exclude(self, places_K2: I32) -> int:
        """These rows are no candidates any more; returns how many are held here."""
        mine = rows_of(self._shards.values(), places_K2)
        for held, index in mine:
            held.depth_N[index] = -2
        return sum(len(index) for _, index in mine)

    # --- rounds on disk ---

    def keep(self, level: int, folder: Path) -> str | OSError:
        """Write how far the candidates of a level have come, a file for all shards held here.

        Returns its name, or what prevented it: the caller can do without.
        """
        shards = self._at(level)
        depths = {str(held.shard): held.depth_N for held in shards}
        name = f"depths-{shards[0].shard:05d}.npz"
        try:
            write_npz(folder / name, **depths)
        except OSError as e:
            return OSError(str(e))
        return name

    def recall(self, level: int, files: Sequence[Path]) -> None:
        """Read it back, from whichever holders wrote it."""
        if level == 0:
            self._inner = None
        missing = {str(held.shard): held for held in self._at(level)}
        for file in files:
            with np.load(file, allow_pickle=False) as depths:
                for shard in missing.keys() & set(depths.files):
                    missing.pop(shard).depth_N[:] = depths[shard]
        assert not missing, f"{files} lack the shards {sorted(missing)}"

    # --- prices ---

    def appraise(
        self, level: int, counts_D: I32, by_cost: bool, most: int, width: int
    ) -> Appraisal:
        """Offers for a pool and the histogram of gains, over a level's candidates."""
        how = (level, self._objective, counts_D, by_cost, most, width)
        return Appraisal.merge([appraise(held, *how) for held in self._at(level)])

    def fetch(self, level: int, places_K2: I32) -> FeatureRows:
        """The rows at some places, candidates of a level and held here, in the order given."""
        order = np.argsort(places_K2[:, 0], kind="stable")
        parts = [held.rows().take(index) for held, index in rows_of(self._at(level), places_K2)]
        if not parts:
            any_shard = next(iter(self._shards.values()))
            return any_shard.rows().take(np.empty(0, np.int64))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return FeatureRows.concat(parts).take(back)
