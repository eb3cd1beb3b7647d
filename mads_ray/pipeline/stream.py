"""Two ways to run work on Ray: Ray Data for the streams, plain tasks for the reductions.

In both, one item is one task, results are small, and order does not matter.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

import mads_ray.errors as errors
from mads_ray.errors import IncompleteError, MadsRayError

Item = dict[str, Any]
Work = Callable[[Item], Item]
_NO_PROGRESS_S = 6 * 3600  # a shard of long rows on one CPU is slow, not hung
_RETRIES = 3


class _Worker:
    """An actor of the pool: set up once, then one item a call.

    Errors that a user can act on come back as results: Ray would retry them and bury the message.
    """

    def __init__(self, set_up: Callable[..., Work], args: tuple[Any, ...]) -> None:
        try:
            self._work: Work | None = set_up(*args)
            self._failure: MadsRayError | None = None
        except MadsRayError as e:
            self._work, self._failure = None, e

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        results = [self._one(json.loads(text)) for text in batch["item"]]
        return {"result": np.array([json.dumps(r) for r in results], dtype=object)}

    def _one(self, item: Item) -> Item:
        try:
            if self._failure is not None:
                raise self._failure
            assert self._work is not None
            return self._work(item)
        except MadsRayError as e:
            return {"error": type(e).__name__, "message": str(e)}


def stream(
    items: Sequence[Item],
    set_up: Callable[..., Work],
    args: tuple[Any, ...],
    *,
    workers: int,
    cpus: int = 1,
    gpus: float = 0,
) -> Iterator[Item]:
    """Stream JSON items through a fixed pool of actors with Ray Data; yield results as they come.

    `set_up(*args)` runs once in every actor and returns the work. One block an item: Ray then
    retries and moves single items, and a killed node costs one item a worker.
    """
    if not items:
        return
    import ray.data  # half a second that tasks and holders, which share this module, need not wait

    context = ray.data.DataContext.get_current().copy()
    interactive = sys.stderr.isatty()
    context.enable_progress_bars = interactive
    context.print_on_execution_start = False
    context.max_errored_blocks = 0  # above 0 drops whole blocks without a word
    context.max_consecutive_actor_init_deaths = _RETRIES
    context.execution_no_progress_timeout_s = _NO_PROGRESS_S
    with ray.data.DataContext.current(context), _quiet(interactive):
        dataset = ray.data.from_items(
            [{"item": json.dumps(item)} for item in items], override_num_blocks=len(items)
        ).map_batches(
            _Worker,
            fn_constructor_args=(set_up, args),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cpus,
            num_gpus=gpus or None,
            max_restarts=_RETRIES,
            max_task_retries=_RETRIES,
        )
        try:
            for row in dataset.iter_rows():
                result = json.loads(row["result"])
                if "error" in result:
                    raise getattr(errors, result["error"])(result["message"])
                yield result
        except RayError as e:
            raise _gave_up(e) from e


@contextmanager
def _quiet(interactive: bool) -> Iterator[None]:
    """Without a terminal only our own progress lines are printed; Ray keeps its log files."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    with warnings.catch_warnings():
        # max_restarts and max_task_retries have no other way in yet (Ray 2.60), and without them
        # a row that kills its process would be retried for ever.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        if not interactive:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)


def map_tasks(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Run `function(*call)` as Ray tasks and yield results in the order of `calls`.

    At most two tasks a CPU are under way, so that what waits here stays bounded.
    """
    task = remote(function)
    room = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
    waiting: list[Any] = []
    for call in calls:
        if len(waiting) >= room:
            yield fetch(waiting.pop(0))
        waiting.append(task.remote(*call))
    while waiting:
        yield fetch(waiting.pop(0))


def remote(function: Callable[..., Any]) -> Any:
    """A Ray task. Its results stay in the object store until `fetch`; tasks may pass them on."""
    return ray.remote(max_retries=_RETRIES)(function)


def fetch(reference: Any) -> Any:
    """Bring a result to the driver; errors for the user arrive as themselves."""
    try:
        return ray.get(reference)
    except RayError as e:
        cause = getattr(e, "cause", None)
        if isinstance(cause, MadsRayError):
            raise cause from e
        raise _gave_up(e) from e


def _gave_up(e: RayError) -> IncompleteError:
    lines = [line for line in str(e).splitlines() if line.strip()]
    reason = (lines[-1] if lines else type(e).__name__)[:500]
    return IncompleteError(
        f"Ray gave up: {reason}\nWhat is done is kept; the same command goes on."
    )
