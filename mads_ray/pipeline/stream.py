"""Two ways to run work on Ray: Ray Data for the corpus, plain tasks for the reductions.

(The model's workers are in a pool of their own, `pool.py`.)

In both, one item is one task, results are small, and order does not matter.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RaySystemError,
    WorkerCrashedError,
)

import mads_ray.errors as errors
from mads_ray.errors import IncompleteError, MadsRayError

log = logging.getLogger("mads_ray")
Item = dict[str, Any]
Work = Callable[[Item], Item]
_NO_PROGRESS_S = 6 * 3600  # a shard of long rows on one CPU is slow, not hung
_RETRIES, _STREAMS = 3, 5
LOST = (RayActorError, RaySystemError, NodeDiedError, WorkerCrashedError, ObjectLostError)
_KEPT = "What is done is kept; the same command goes on."
_FILE_WAITS_S = (1.0, 5.0, 20.0)
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


class Guarded:
    """Work in an actor: set up once, then one item a call.

    Errors that a user can act on come back as results: Ray would retry them and bury the message.
    A file system may fail for a moment, so an item is tried again before that is such an error.
    """

    def __init__(self, set_up: Callable[..., Work], args: tuple[Any, ...]) -> None:
        try:
            self._work: Work | None = set_up(*args)
            self._failure: MadsRayError | None = None
        except MadsRayError as e:
            self._work, self._failure = None, e

    def failure(self) -> Item:
        """What went wrong in setting up; empty where nothing did."""
        return {} if self._failure is None else _closed(self._failure)

    def one(self, item: Item) -> Item:
        """The result, or an error for `opened` to raise."""
        if self._failure is not None:
            return _closed(self._failure)
        assert self._work is not None
        for wait_s in (*_FILE_WAITS_S, None):
            try:
                return self._work(item)
            except MadsRayError as e:
                return _closed(e)
            except OSError as e:
                if wait_s is None or e.errno in _LASTING:
                    where = f"node {socket.gethostname()}: {type(e).__name__}: {e}"
                    return _closed(IncompleteError(f"{where}\n{_KEPT}"))
                time.sleep(wait_s)
        raise AssertionError("unreachable")


class _Mapper(Guarded):
    """For Ray Data."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """JSON items to JSON results."""
        results = [self.one(json.loads(text)) for text in batch["item"]]
        texts = np.array([json.dumps(r) for r in results], dtype=object)
        return {"number": batch["number"], "result": texts}


def _closed(e: MadsRayError) -> Item:
    return {"error": type(e).__name__, "message": str(e)}


def opened(result: Item) -> Item:
    """The result of an item; an error for the user arrives as itself."""
    if "error" in result:
        raise getattr(errors, result["error"])(result["message"])
    return result


def stream(
    name: str,
    items: Sequence[Item],
    set_up: Callable[..., Work],
    args: tuple[Any, ...],
    *,
    workers: int,
) -> Iterator[Item]:
    """Stream JSON items through a fixed pool of actors with Ray Data; yield results as they come.

    `set_up(*args)` runs once in every actor and returns the work. One block an item: Ray then
    retries and moves single items. Where it gives up all the same, as when a node is lost, what is
    left is streamed again.
    """
    left = dict(enumerate(items))
    for attempt in range(1, _STREAMS + 1):
        try:
            for number, result in _stream(name, left, set_up, args, workers):
                del left[number]
                yield opened(result)
            return
        except RayError as e:
            if attempt == _STREAMS or not isinstance(e, LOST):
                raise gave_up(e) from e
            log.warning("%s: workers were lost; %d of %d to go", name, len(left), len(items))


def _stream(
    name: str,
    items: dict[int, Item],
    set_up: Callable[..., Work],
    args: tuple[Any, ...],
    workers: int,
) -> Iterator[tuple[int, Item]]:
    """Results by the items' numbers, as they come."""
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
            [{"number": n, "item": json.dumps(item)} for n, item in items.items()],
            override_num_blocks=len(items),
        ).map_batches(
            type(name.title(), (_Mapper,), {}),  # the name of the operator in Ray's dashboard
            fn_constructor_args=(set_up, args),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            max_restarts=_RETRIES,
            max_task_retries=_RETRIES,
        )
        dataset.set_name(f"mads_ray_{name}")
        for row in dataset.iter_rows():
            yield int(row["number"]), json.loads(row["result"])


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


def map_tasks(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], cpus: float = 1.0
) -> Iterator[Any]:
    """Run `function(*call)` as Ray tasks and yield results in the order of `calls`.

    At most two tasks a CPU are under way, so that what waits here stays bounded.
    """
    task = remote(function, cpus)
    waiting: list[Any] = []
    for call in calls:
        # A cluster may grow meanwhile.
        room = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        if len(waiting) >= room:
            yield fetch(waiting.pop(0))
        waiting.append(task.remote(*call))
    while waiting:
        yield fetch(waiting.pop(0))


def remote(function: Callable[..., Any], cpus: float = 1.0) -> Any:
    """A Ray task. Its results stay in the object store until `fetch`; tasks may pass them on."""
    name = function.__name__.strip("_")
    task: Any = ray.remote(max_retries=_RETRIES, num_cpus=cpus, name=name)  # type: ignore[call-overload]
    return task(function)


def fetch(reference: Any) -> Any:
    """Bring a result to the driver; errors for the user arrive as themselves."""
    try:
        return ray.get(reference)
    except RayError as e:
        cause = getattr(e, "cause", None)
        if isinstance(cause, MadsRayError):
            raise cause from e
        if isinstance(cause, OSError):  # a full disk
            where = f"node {getattr(e, 'ip', '?')}: {type(cause).__name__}: {cause}"
            raise IncompleteError(f"{where}\n{_KEPT}") from e
        raise gave_up(e) from e


def gave_up(e: RayError) -> IncompleteError:
    """For what Ray cannot do, or code of ours that fails."""
    lines = [line for line in str(e).splitlines() if line.strip()]
    reason = (lines[-1] if lines else type(e).__name__)[:500]
    return IncompleteError(f"Ray gave up: {reason}\n{_KEPT}")
