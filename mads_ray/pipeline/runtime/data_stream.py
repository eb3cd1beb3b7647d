"""Stream JSON items through an actor pool of Ray Data, one item a task, in no fixed order.

Ray Data (2.60) ties a task to the actor that has it, and waits until Ray has started that actor
again. So an item leaves on disk what was done of it (`capture/journal.py`) and is committed by a
marker; an actor that stands still ends itself (`capture/alarm.py`). Where Ray Data gives up or does
not get on, what has no marker is streamed again: the markers are the truth, not what Ray says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.exceptions import RayError

from mads_ray.errors import IncompleteError
from mads_ray.pipeline.runtime.data_context import data_context, driver_watch
from mads_ray.pipeline.runtime.session import PoolShape
from mads_ray.pipeline.runtime.tasks import KEPT, LOST, Guard, Item, Work, ray_failure, unwrap
from mads_ray.pipeline.runtime.watch import StalledError, Traces, Watch, beats

log = logging.getLogger(__name__)
_STREAMS = 5


@dataclass(frozen=True, slots=True)
class Preparation:
    """A stage before the work, in processes of its own with one CPU each.

    `set_up(*args)` runs once in each of `workers` processes. It returns a function from an item to
    bytes, which reach the work as its second argument. Ray Data runs ahead of the work as far as
    its share of the object store allows.
    """

    name: str
    set_up: Callable[..., Callable[[Item], pa.Buffer]]
    args: tuple[Any, ...]
    workers: int


class _Preparer(Guard):
    """The callable class that Ray Data maps over blocks of one JSON item, before the work."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Add the bytes, or the error in their place."""
        (item,) = batch.column("item").to_pylist()
        made = self.one(json.loads(item))
        error = json.dumps(made) if isinstance(made, dict) else None
        ready = pa.py_buffer(b"") if isinstance(made, dict) else made
        ends = pa.array([0, ready.size], pa.int64()).buffers()[1]
        whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, ready])  # not copied
        batch = batch.append_column("ready", whole)
        return batch.append_column("error", pa.array([error], pa.string()))


class _Mapper(Guard):
    """The callable class that Ray Data maps over blocks of one JSON item."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Work on the item; return its result as JSON."""
        (item,) = batch.column("item").to_pylist()
        if "ready" not in batch.column_names:
            result = json.dumps(self.one(json.loads(item)))
        elif (error := batch.column("error")[0].as_py()) is not None:
            result = error
        else:  # the bytes stay where they are, in the object store
            ready = batch.column("ready")[0].as_buffer()
            result = json.dumps(self.one(json.loads(item), ready))
        return pa.table({"number": batch.column("number"), "result": [result]})


def stream(
    name: str,
    items: Sequence[Item],
    set_up: Callable[..., Work],
    args: tuple[Any, ...],
    shape: PoolShape,
    traces: Traces,
    before: Preparation | None = None,
) -> Generator[Item, None, None]:
    """Stream JSON items through actors with Ray Data; yield results as they come.

    `set_up(*args)` runs once in every actor and returns the work. Each item is a block of its own,
    so that Ray retries and moves single items. An item is done when it is committed, also where
    its answer does not come. Errors that a user can act on are raised as they are. Raises
    IncompleteError where workers end one after the other and nothing gets done.
    """
    left, fruitless = dict(enumerate(items)), 0
    while left:
        stood = len(left), beats(traces.folder)
        reason: Exception | None = None
        try:
            found = _results(name, left, set_up, args, shape, traces, before)
            look = Watch(name, left, traces).look
            with data_context(patient=traces.hang_s > 0), driver_watch(look), closing(found):
                for number, result in found:
                    if left.pop(number, None) is not None:
                        yield unwrap(result)
        except StalledError as e:
            reason = e
        except RayError as e:
            if not isinstance(e, LOST):
                raise ray_failure(e) from e
            reason = ray_failure(e)
        for number, item in list(left.items()):
            committed = traces.committed(item)
            if committed is not None:
                del left[number]
                yield committed
        if left:
            stands = stood == (len(left), beats(traces.folder))
            fruitless = fruitless + 1 if stands else 0
            if fruitless >= _STREAMS:
                raise IncompleteError(f"{name}: nothing gets done: {reason}\n{KEPT}") from reason
            log.warning("%s: %d of %d go again (%s)", name, len(left), len(items), reason)


def _results(
    name: str,
    left: dict[int, Item],
    set_up: Callable[..., Work],
    args: tuple[Any, ...],
    shape: PoolShape,
    traces: Traces,
    before: Preparation | None,
) -> Generator[tuple[int, Item], None, None]:
    """Yield (number of the item, its result) as they are done. `left`: items that are not."""
    import ray.data  # takes half a second: only where something is streamed
    from ray.data import ActorPoolStrategy

    blocks = [{"number": n, "item": json.dumps(item)} for n, item in left.items()]
    dataset: Any = ray.data.from_items(blocks, override_num_blocks=len(left))
    if before is not None:
        dataset = dataset.map_batches(
            type(before.name.title(), (_Preparer,), {}),  # the operator's name in the dashboard
            fn_constructor_args=(before.set_up, before.args, traces.folder, traces.hang_s),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=min(before.workers, len(left)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1,
        )
    workers = min(shape.workers, len(left))
    dataset = dataset.map_batches(
        type(name.title(), (_Mapper,), {}),
        fn_constructor_args=(set_up, args, traces.folder, traces.hang_s),
        batch_size=None,
        batch_format="pyarrow",
        # All workers are asked for at once. The pool grows where nodes join.
        compute=ActorPoolStrategy(
            min_size=workers,
            initial_size=workers,
            max_size=max(workers, min(shape.most, len(left))),
            max_tasks_in_flight_per_actor=shape.at_once,
            max_concurrent_calls_per_actor=shape.at_once,
            enable_true_multi_threading=shape.at_once > 1,
        ),
        num_cpus=shape.cpus,
        num_gpus=shape.gpus or None,
    )
    dataset.set_name(f"mads_ray_{name}")
    rows: Any = iter(dataset.iter_rows())
    try:
        for row in rows:
            yield int(row["number"]), json.loads(row["result"])
    finally:
        rows.close()  # ends the execution, before Ray itself may end
