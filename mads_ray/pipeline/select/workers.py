"""The driver's side of the holders: start them, ask all of them, add up what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np
import ray

from mads_ray.arrays import I32, I64
from mads_ray.pipeline.runtime.tasks import fetch
from mads_ray.pipeline.select.worker import Holder
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.totals import Delta, Totals

# Share of a CPU for a task that selects from a pool, while holders wait. A holder takes the rest,
# and there is one a CPU at most: whichever nodes are lost, a quarter of the CPUs stays for tasks.
BESIDE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class HolderPool:
    """Actors with their shards (numbers), and the objective they hold. `shown_D`: how many examples
    have each feature, where that weighs the neurons."""

    actors: list[Any]
    shards: list[list[int]]
    objective: Objective
    shown_D: I64 | None = None

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        """What every holder answers, one after the other, so that the driver need not hold all.

        Arguments travel once.
        """
        shared = [ray.put(a) if isinstance(a, np.ndarray | Totals) else a for a in args]
        calls = [getattr(a, method).remote(*shared) for a in self.actors]
        return (fetch(call) for call in calls)

    def all(self, method: str, *args: Any) -> list[Any]:
        """What every holder answers."""
        return list(self.stream(method, *args))

    def total(self, method: str, *args: Any) -> Any:
        """The sum of what every holder answers."""
        return reduce(add, self.stream(method, *args))

    def each(self, function: Callable[..., Any], *args: Any, level: int = 0) -> list[Any]:
        """What `function(shards, objective, *args)` returns in every holder, `shards` with at least
        the candidates of a level."""
        return self.all("run", level, function, *args)

    def sum(self, function: Callable[..., Any], *args: Any, level: int = 0) -> Any:
        """The sum of that."""
        return self.total("run", level, function, *args)

    def reselect(
        self, level: int, shards: Sequence[int], verdicts: dict[int, bool], *args: Any
    ) -> tuple[Delta, list[int]]:
        """The change that some shards propose, and the holders that wait for a verdict on it.

        `verdicts` on earlier proposals travel with the call, and are removed.
        """
        wanted = set(shards)
        shared = [ray.put(a) if isinstance(a, np.ndarray | Totals) else a for a in args]
        calls, asked = [], []
        for i, (actor, held) in enumerate(zip(self.actors, self.shards, strict=True)):
            mine = [s for s in held if s in wanted]
            if mine:
                calls.append(actor.reselect.remote(verdicts.pop(i, False), level, mine, *shared))
                asked.append(i)
        return reduce(add, map(fetch, calls)), asked

    def settle(self, verdicts: dict[int, bool]) -> None:
        """Deliver the verdicts that no other call will take along."""
        for i, keep in verdicts.items():
            self.actors[i].settle.remote(keep)

    def rows_at(self, places_K2: I32, level: int = 0) -> tuple[list[Any], I32]:
        """References to the rows at some places, all of which are candidates of the level, and the
        places in the order of the rows.

        The rows go from the holders to whoever takes the references, not through the driver.
        """
        parts, order = [], []
        for actor, held in zip(self.actors, self.shards, strict=True):
            mine = places_K2[np.isin(places_K2[:, 0], held)]
            if len(mine):
                parts.append(actor.fetch.remote(level, mine))
                order.append(mine)
        return parts, np.concatenate(order) if order else places_K2[:0]


def ids_of(places_N2: I32) -> I64:
    """One int64 for each place."""
    return (places_N2[:, 0].astype(np.int64) << 32) + places_N2[:, 1]


def order_of(places_N2: I32, wanted_K2: I32) -> I64:
    """Positions in `places_N2` of the wanted places, all of which are there."""
    ids = ids_of(places_N2)
    ascending = np.argsort(ids)
    return ascending[np.searchsorted(ids[ascending], ids_of(wanted_K2))]


@contextmanager
def holder_pool(
    shards: Sequence[Any],
    number: Callable[[Any], int],
    workers: int | None,
    load: Callable[..., Any],
    args: tuple[Any, ...],
    objective: Objective,
) -> Iterator[HolderPool]:
    """Spread shards over holders; `load(shards, *args)` brings them. Actors end with the block."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    n = max(1, min(workers or cpus, cpus, len(shards)))
    bounds = np.linspace(0, len(shards), n + 1).astype(int)
    parts = [list(shards[a:b]) for a, b in pairwise(bounds)]
    actor_of: Any = ray.remote(num_cpus=1 - BESIDE, scheduling_strategy="SPREAD")(Holder)
    actors = [actor_of.remote(load, (part, *args)) for part in parts]
    try:
        pool = HolderPool(actors, [[number(s) for s in part] for part in parts], objective)
        pool.all("ready")
        yield pool
    finally:
        for actor in actors:
            ray.kill(actor)
