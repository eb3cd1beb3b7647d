"""A pool of actors that works through items and survives the loss of actors.

Ray Data (2.60) gives a task to one actor only, retries it a fixed number of times or for ever, and
does not notice that an actor hangs. Here an item goes to an actor that is ready. It goes back to
the queue when that actor is lost, hangs or cannot be reached, as long as the item makes progress.
The next actor continues from what the lost one left on disk (`capture/journal.py`). Actors that
find no room yet wait for nodes, and the others work meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from mads_ray.errors import ConfigError, IncompleteError, reason_of
from mads_ray.pipeline.runtime.tasks import Guard, Item, Work, ray_failure, unwrap

log = logging.getLogger(__name__)
_LOOK_S = 3.0
_GROW_S = 3.0
_TELL_S = 60.0
_REPLY_S = 15.0
_NODE = "node has died"  # Ray's words
_STILLBORN = 5
_FRUITLESS = 5

T = TypeVar("T")  # an item of work


@dataclass(frozen=True, slots=True)
class WorkStatus(Generic[T]):
    """How to see on disk what becomes of an item.

    `heartbeats()`: by the item's key, a number that changes with each batch. `settled(item)`: grows
    while processes make progress with it. `result(item)`: what its work returned, once that is
    committed. `blame(item)`: record that the process which had it died or hung over it. `hang_s`:
    seconds without a change after which an actor is given up.
    """

    key: Callable[[T], str]
    heartbeats: Callable[[], dict[str, int]]
    settled: Callable[[T], int]
    result: Callable[[T], Item | None]
    blame: Callable[[T], None]
    hang_s: float


@dataclass(slots=True, eq=False)
class _Slot(Generic[T]):
    """An actor, and what it does: None while it gets ready, or has nothing to do."""

    actor: Any
    since: float
    item: T | None = None
    heartbeat: int = 0


@dataclass(slots=True)
class _Losses:
    """Actors lost with an item since it last made progress."""

    settled: int = -1
    fruitless: int = 0


class ActorPool(Generic[T]):
    """Actors that work through items. `set_up(*args)` runs once in each and returns the work.

    `shape(items)` returns (actors, CPUs each, GPUs each) that the cluster has room for now. It is
    asked again and again, so that the pool grows with the cluster.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[T],
        set_up: Callable[..., Work],
        args: tuple[Any, ...],
        shape: Callable[[int], tuple[int, int, float]],
        watch: WorkStatus[T],
        gpus: float = 0.0,
    ) -> None:
        self._name, self._queue = name, deque(items)
        self._make, self._shape, self._watch = (set_up, args), shape, watch
        self.gpus = gpus
        # Ray's dashboard and metrics name actors by their class.
        self._actor = type(f"{name.title()}Worker", (_Worker,), {})
        self._calls: dict[Any, _Slot[T]] = {}
        self._idle: list[_Slot[T]] = []
        self._losses: dict[str, _Losses] = {}
        self._stillborn, self._stillborn_at = 0, 0.0
        self._looked = self._grown = self._told = time.monotonic()

    def run(self) -> Iterator[Item]:
        """Yield the result of every item, in the order in which they are done.

        Errors that a user can act on are raised as they are. Raises IncompleteError when actors
        die one after the other and no item makes progress.
        """
        if not self._queue:
            return
        try:
            self._grow(self._shape(len(self._queue)))
            while self._queue or any(s.item is not None for s in self._calls.values()):
                if not self._calls:  # all were lost at once
                    time.sleep(_LOOK_S / 4)
                for call in ray.wait(list(self._calls), timeout=_LOOK_S)[0] if self._calls else ():
                    yield from self._returned(call)
                yield from self._look()
        finally:
            for slot in [*self._calls.values(), *self._idle]:
                with suppress(Exception):  # Ray itself may be gone, which tells more
                    ray.kill(slot.actor)

    def _returned(self, call: Any) -> Iterator[Item]:
        slot = self._calls[call]
        try:
            result = unwrap(ray.get(call))
        except RayTaskError as e:  # a fault of the code: another actor would fail too
            raise ray_failure(e) from e
        except RayError as e:
            del self._calls[call]
            yield from self._lost(slot, _reason(e))
            return
        del self._calls[call]
        self._stillborn = 0
        item, slot.item = slot.item, None
        self._give(slot)
        if item is not None:
            self._losses.pop(self._watch.key(item), None)
            yield result

    def _give(self, slot: _Slot[T]) -> None:
        """Give the actor the next item. Without one it waits, in case another actor is lost."""
        if not self._queue:
            self._idle.append(slot)
            return
        slot.item = self._queue.popleft()
        slot.heartbeat, slot.since = -1, time.monotonic()
        self._calls[slot.actor.work.remote(slot.item)] = slot

    def _lost(self, slot: _Slot[T], reason: str) -> Iterator[Item]:
        """Give up an actor. Yield its item's result if that is committed, else requeue the item.

        `_look` starts another actor.
        """
        ray.kill(slot.actor)
        log.warning("%s: a worker was lost (%s); another takes over", self._name, reason)
        if slot.item is None:
            self._not_ready(slot, reason)
        elif (result := self._watch.result(slot.item)) is not None:
            yield result
        else:
            self._requeue(slot.item, reason)
        self._grown = 0.0
        while self._idle and self._queue:
            self._give(self._idle.pop())

    def _not_ready(self, slot: _Slot[T], reason: str) -> None:
        # Actors that were lost together, as with their node, count as one.
        if slot.since > self._stillborn_at:
            self._stillborn += 1
            self._stillborn_at = time.monotonic()
        busy = any(s.item is not None for s in self._calls.values())
        if self._stillborn >= _STILLBORN and not busy:
            raise IncompleteError(
                f"{self._name}: {self._stillborn} workers ended one after the other before "
                f"they were ready: {reason}"
            )

    def _requeue(self, item: T, reason: str) -> None:
        if _NODE not in reason:  # the loss of a node says nothing about the item
            self._watch.blame(item)
        losses = self._losses.setdefault(self._watch.key(item), _Losses())
        settled = self._watch.settled(item)
        losses.fruitless = losses.fruitless + 1 if settled == losses.settled else 0
        losses.settled = settled
        if losses.fruitless >= _FRUITLESS:
            raise IncompleteError(
                f"{self._name}: {_FRUITLESS} workers in a row ended over {self._watch.key(item)} "
                f"without getting on: {reason}\nLook for them in Ray's logs. What is done is kept; "
                "the same command goes on."
            )
        self._queue.appendleft(item)

    def _actors(self) -> int:
        return len(self._calls) + len(self._idle)

    def _grow(self, shape: tuple[int, int, float]) -> None:
        """Start actors until there are enough for the shape, or for the items that are left."""
        workers, cpus, gpus = shape
        busy = sum(s.item is not None for s in self._calls.values())
        target = min(workers, len(self._queue) + busy)
        for _ in range(target - self._actors()):
            actor_of: Any = ray.remote(
                num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
            )(self._actor)
            actor = actor_of.remote(*self._make)
            self._calls[actor.ready.remote()] = _Slot(actor, time.monotonic())

    def _look(self) -> Iterator[Item]:
        """Give up actors that hang or cannot be reached, start actors on new nodes, and warn when
        nothing runs."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked, heartbeats = now, self._watch.heartbeats()
        for call, slot in list(self._calls.items()):
            if slot.item is None:
                continue
            heartbeat = heartbeats.get(self._watch.key(slot.item), 0)
            if heartbeat != slot.heartbeat:
                slot.heartbeat, slot.since = heartbeat, now
            elif now - slot.since >= _REPLY_S and self._watch.result(slot.item) is not None:
                del self._calls[call]
                yield from self._lost(slot, "its work is committed, but its answer does not come")
            elif now - slot.since > self._watch.hang_s:
                del self._calls[call]
                yield from self._lost(slot, f"no batch in {self._watch.hang_s:.0f} s")
        if not self._queue:  # actors that are not ready yet are not needed
            for call, slot in list(self._calls.items()):
                if slot.item is None:
                    del self._calls[call]
                    ray.kill(slot.actor)
        if now - self._grown >= _GROW_S:
            self._grown = now
            with suppress(ConfigError):  # a node is missing just now
                self._grow(self._shape(len(self._queue) + len(self._calls)))
        if any(s.item is not None for s in self._calls.values()):
            self._told = now
        elif now - self._told >= _TELL_S:
            self._told = now
            log.info(
                "%s: %d workers wait for room on the cluster, or load the model",
                *(self._name, len(self._calls)),
            )


class _Worker(Guard):
    """An actor of the pool."""

    def ready(self) -> Item:
        """Empty when the set-up went well, else its error as an item."""
        return self.failure()

    def work(self, item: Any) -> Item:
        """The result, or an error for the user."""
        return self.one(item)


def _reason(e: RayError) -> str:
    """The first of Ray's many lines that says because of what; else the first line."""
    lines = (line.strip()[:300] for line in str(e).splitlines() if "because" in line.lower())
    return next(lines, reason_of(e, 300))
