"""Ray tasks, guarded work in actors, and the errors of both.

An error that a user can act on reaches the driver unchanged. Where Ray itself fails, the driver
gets an IncompleteError, and the work that is done is kept.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
from mads_ray.errors import IncompleteError, MadsRayError, reason_of

Item = dict[str, Any]


Work = Callable[[Any], Item]


_RETRIES = 3


LOST = (RayActorError, RaySystemError, NodeDiedError, WorkerCrashedError, ObjectLostError)


_KEPT = "What is done is kept; the same command goes on."


_FILE_WAITS_S = (1.0, 5.0, 20.0)


_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


class Guard:
    """Work in an actor: set up once, then one item a call.

    Errors that a user can act on come back as results, because Ray would retry them and hide their
    message. A file system may fail for a moment, so an item is tried again after an OSError.
    """

    def __init__(self, set_up: Callable[..., Work], args: tuple[Any, ...]) -> None:
        try:
            self._work: Work | None = set_up(*args)
            self._failure: MadsRayError | None = None
        except MadsRayError as e:
            self._work, self._failure = None, e

    def failure(self) -> Item:
        """The error of the set-up as an item, empty where there is none."""
        return {} if self._failure is None else _wrap(self._failure)

    def one(self, item: Any) -> Item:
        """The result, or an error for `unwrap` to raise."""
        if self._failure is not None:
            return _wrap(self._failure)
        assert self._work is not None
        for wait_s in (*_FILE_WAITS_S, None):
            try:
                return self._work(item)
            except MadsRayError as e:
                return _wrap(e)
            except OSError as e:
                if wait_s is None or e.errno in _LASTING:
                    where = f"node {socket.gethostname()}: {type(e).__name__}: {e}"
                    return _wrap(IncompleteError(f"{where}\n{_KEPT}"))
                time.sleep(wait_s)
        raise AssertionError("unreachable")


def _wrap(e: MadsRayError) -> Item:
    return {"error": type(e).__name__, "message": str(e)}


def unwrap(result: Item) -> Item:
    """Return the result of an item, or raise the error that came in its place."""
    if "error" in result:
        raise getattr(errors, result["error"])(result["message"])
    return result


def map_tasks(
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Iterator[Any]:
    """Run `function(*call)` as Ray tasks and yield results in the order of `calls`.

    At most two tasks a CPU are under way, so that few results wait here.
    """
    task = remote(function, cpus).options(num_gpus=gpus)
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
    """Make a Ray task. Its results stay in the object store, for `fetch` or for other tasks."""
    name = function.__name__.strip("_")
    task: Any = ray.remote(max_retries=_RETRIES, num_cpus=cpus, name=name)  # type: ignore[call-overload]
    return task(function)


def fetch(reference: Any) -> Any:
    """Bring a result to the driver. Errors for the user are raised unchanged."""
    try:
        return ray.get(reference)
    except RayError as e:
        cause = getattr(e, "cause", None)
        if isinstance(cause, MadsRayError):
            raise cause from e
        if isinstance(cause, OSError):  # a full disk
            where = f"node {getattr(e, 'ip', '?')}: {type(cause).__name__}: {cause}"
            raise IncompleteError(f"{where}\n{_KEPT}") from e
        raise ray_failure(e) from e


def ray_failure(e: RayError) -> IncompleteError:
    """The error for the user where Ray gives up, or where code of ours fails."""
    return IncompleteError(f"Ray gave up: {reason_of(e, 500, line=-1)}\n{_KEPT}")
