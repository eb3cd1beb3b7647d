"""The driver's side of the selection workers: start them, ask them, add up what they answer."""

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
from mads_ray.pipeline.select.load import LoadPlan, load_shards
from mads_ray.pipeline.select.worker import SelectionWorker
from mads_ray.states import CapturedShard
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.problem import Bounds, Budget
from mads_ray.submodular.totals import Delta, Totals

# Share of a CPU for a task that runs while workers wait for it. A worker takes the rest, and there
# is one a CPU at most: whichever nodes are lost, a quarter of the CPUs stays for tasks.
BESIDE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class SelectionWorkers:
    """Actors (`SelectionWorker`), the numbers of the shards of each, and the objective of all.

    `pool_counts_D`: how many examples have each feature, where that weighs the neurons.
    """

    actors: list[Any]
    shards: list[list[int]]
    objective: Objective
    pool_counts_D: I64 | None = None

    def ask(self, what: str | Callable[..., Any], *args: Any, depth: int = 0) -> list[Any]:
        """What every worker answers, in the order of the workers.

        `what`: the name of a method of `SelectionWorker`; or a function, which each worker calls
        with (shards, objective, *args), the shards with at least the candidates of `depth`.
        """
        return list(self._answers(what, args, depth))

    def sum(self, what: str | Callable[..., Any], *args: Any, depth: int = 0) -> Any:
        """The sum of what every worker answers; the driver never holds all answers at once."""
        return reduce(add, self._answers(what, args, depth))

    def _answers(
        self, what: str | Callable[..., Any], args: tuple[Any, ...], depth: int
    ) -> Iterator[Any]:
        method, call = (what, args) if isinstance(what, str) else ("run", (depth, what, *args))
        call = _stored_once(call)
        calls = [getattr(actor, method).remote(*call) for actor in self.actors]
        return (fetch(call) for call in calls)

    def reselect(
        self,
        depth: int,
        shards: Sequence[int],
        accepted: dict[int, bool],
        budget: Budget,
        bounds: Bounds,
        now: Totals,
    ) -> tuple[Delta, list[int]]:
        """What some shards propose together, and the workers that wait for an answer to it.

        `accepted`: answers to earlier proposals, by worker. Those that travel with the calls are
        removed.
        """
        wanted, calls, asked = set(shards), [], []
        args = _stored_once((budget, bounds, now))
        for i, (actor, numbers) in enumerate(zip(self.actors, self.shards, strict=True)):
            mine = [n for n in numbers if n in wanted]
            if mine:
                calls.append(actor.reselect.remote(accepted.pop(i, False), depth, mine, *args))
                asked.append(i)
        return reduce(add, map(fetch, calls)), asked

    def commit(self, accepted: dict[int, bool]) -> None:
        """Deliver the answers that no other call will take along."""
        for i, is_accepted in accepted.items():
            self.actors[i].commit.remote(is_accepted)

    def rows_at(self, places_K2: I32, depth: int = 0) -> tuple[list[Any], I32]:
        """References to the rows at some places, all of them candidates of `depth`, and the places
        in the order of these rows.

        The rows go from the workers to whoever takes the references, not through the driver.
        """
        parts, order = [], []
        for actor, numbers in zip(self.actors, self.shards, strict=True):
            mine = places_K2[np.isin(places_K2[:, 0], numbers)]
            if len(mine):
                parts.append(actor.fetch.remote(depth, mine))
                order.append(mine)
        return parts, np.concatenate(order) if order else places_K2[:0]


def _stored_once(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arrays go to the object store once, and not once for every worker."""
    return tuple(ray.put(a) if isinstance(a, np.ndarray | Totals) else a for a in args)


def ids_of(places_N2: I32) -> I64:
    """One int64 for each place."""
    return (places_N2[:, 0].astype(np.int64) << 32) + places_N2[:, 1]


def order_of(places_N2: I32, wanted_K2: I32) -> I64:
    """Positions in `places_N2` of the wanted places, all of which are there."""
    ids = ids_of(places_N2)
    ascending = np.argsort(ids)
    return ascending[np.searchsorted(ids[ascending], ids_of(wanted_K2))]


@contextmanager
def selection_workers(
    shards: Sequence[CapturedShard], plan: LoadPlan, most: int | None
) -> Iterator[SelectionWorkers]:
    """Load shards into workers, `most` of them and one a CPU. They end with the block."""
    cpus = int(ray.cluster_resources().get("CPU", 1))
    n = max(1, min(most or cpus, cpus, len(shards)))
    bounds = np.linspace(0, len(shards), n + 1).astype(int)
    parts = [list(shards[a:b]) for a, b in pairwise(bounds)]
    actor_of: Any = ray.remote(num_cpus=1 - BESIDE, scheduling_strategy="SPREAD")(SelectionWorker)
    actors = [actor_of.remote(load_shards, (part, plan)) for part in parts]
    try:
        numbers = [[s.shard for s in part] for part in parts]
        workers = SelectionWorkers(actors, numbers, plan.objective)
        workers.ask("ready")
        yield workers
    finally:
        for actor in actors:
            ray.kill(actor)
