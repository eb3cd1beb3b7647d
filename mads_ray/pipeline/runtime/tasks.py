"""Ray tasks, guarded work in actors, and the errors of both.

An error that a user can act on reaches the driver unchanged. Where Ray itself fails, the driver
gets an IncompleteError, and the work that is done is kept.
"""

from __future__ import annotations

import errno
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

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
from mads_ray.capture.alarm import alarmed, put_off
from mads_ray.errors import IncompleteError, MadsRayError, reason_of

T = TypeVar("T")
Item = dict[str, Any]
Work = Callable[..., Any]
_RETRIES = 3
LOST = (RayActorError, RaySystemError, NodeDiedError, WorkerCrashedError, ObjectLostError)
KEPT = "What is done is kept; the same command goes on."
_FILE_WAITS_S = (1.0, 5.0, 20.0)
_READY_S = 1800.0  # to load a model
_STILLBORN, _LOADING = 5, ".loading"
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


class Guard:
    """Work in an actor: set up once, then one item a call.

    Errors that a user can act on come back as results, because Ray would retry them and hide their
    message. A file system may fail for a moment, so an item is tried again after an OSError.

    `folder`: where processes leave traces; those that die in the set-up are counted there.
    `hang_s`: seconds without progress after which this process ends itself; 0: never.
    """

    def __init__(
        self,
        set_up: Callable[..., Work],
        args: tuple[Any, ...],
        folder: Path | None = None,
        hang_s: float = 0.0,
    ) -> None:
        self._hang_s = hang_s
        self._work: Work | None = None
        self._failure: MadsRayError | None = None
        try:
            with getting_ready(folder), alarmed(max(hang_s, _READY_S) if hang_s else 0.0):
                self._work = _patiently(lambda: set_up(*args))
        except MadsRayError as e:
            self._failure = e

    def one(self, item: Any, *more: Any) -> Any:
        """What the work returns of these, or an error for `unwrap` to raise."""
        work = self._work
        if work is None:
            assert self._failure is not None
            return _wrap(self._failure)
        try:
            with alarmed(self._hang_s):
                return _patiently(lambda: work(item, *more))
        except MadsRayError as e:
            return _wrap(e)


def _patiently(call: Callable[[], T]) -> T:
    """Call it, again after an OSError that may pass. Raises MadsRayError and nothing else."""
    for wait_s in (*_FILE_WAITS_S, None):
        try:
            return call()
        except MadsRayError:
            raise
        except OSError as e:
            if wait_s is None or e.errno in _LASTING:
                where = f"node {socket.gethostname()}: {type(e).__name__}: {e}"
                raise IncompleteError(f"{where}\n{KEPT}") from e
            put_off()
            time.sleep(wait_s)
        except Exception as e:  # a fault of the code: another process would fail too
            what = f"a fault of the code: {type(e).__name__}: {str(e)[:500]}"
            raise IncompleteError(f"{what}\n{traceback.format_exc(limit=-3)}{KEPT}") from e
    raise AssertionError("unreachable")


@contextmanager
def getting_ready(folder: Path | None) -> Iterator[None]:
    """For the set-up of an actor: Ray starts one that dies in it again, without end.

    Raises IncompleteError where five processes of this host died in their set-up in a row.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname().split(".")[0]
    others = {p: int(p.name.split(".")[1]) for p in folder.glob(f"{host}.*{_LOADING}")}
    dead = [path for path, pid in others.items() if not Path(f"/proc/{pid}").exists()]
    mine = folder / f"{host}.{os.getpid()}{_LOADING}"
    mine.touch()
    try:
        if len(dead) >= _STILLBORN:
            raise IncompleteError(
                f"{len(dead)} workers on {host} ended one after the other before they were ready. "
                f"Look for them in Ray's logs. {KEPT}"
            )
        yield
    finally:
        for path in [*dead, mine]:
            path.unlink(missing_ok=True)


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
            raise IncompleteError(f"{where}\n{KEPT}") from e
        raise ray_failure(e) from e


def ray_failure(e: RayError) -> IncompleteError:
    """The error for the user where Ray gives up, or where code of ours fails."""
    return IncompleteError(f"Ray gave up: {reason_of(e, 500, line=-1)}\n{KEPT}")
