"""Ray's calls in this process: tasks and actor calls run at once, one after the other.

For what the pipeline computes, where processes of Ray's own are not the point: each takes about two
seconds to start. As in Ray, what travels is pickled, arrays arrive read-only, and an error of a
task comes wrapped. Runs on a real Ray: `test_run.py`, `test_resume.py` and tests of the pipeline.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import pytest
import ray
import torch
from ray import cloudpickle
from ray.exceptions import RayTaskError

from mads_ray.pipeline import ingest
from mads_ray.pipeline.capture import model_tasks
from mads_ray.pipeline.runtime import prometheus
from mads_ray.pipeline.runtime.tasks import Guard, unwrap

_NODE = "0" * 56
_living: WeakValueDictionary[int, Ref] = WeakValueDictionary()


class Ref:
    """A stored value or error; a copy of it travels as itself."""

    def __init__(self, value: Any, error: RayTaskError | None = None) -> None:
        self.error, self._buffers = error, []
        kept: list[pickle.PickleBuffer] = []
        self._data = cloudpickle.dumps(value, protocol=5, buffer_callback=kept.append)
        self._buffers = [bytes(b.raw()) for b in kept]  # bytes: arrays of them are read-only
        _living[id(self)] = self

    def __reduce__(self) -> Any:
        return _living_one, (id(self),)

    def value(self) -> Any:
        if self.error is not None:
            raise self.error.as_instanceof_cause()
        return pickle.loads(self._data, buffers=self._buffers)


def _living_one(number: int) -> Ref:
    return _living[number]


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ref:
    try:
        given = Ref((args, kwargs)).value()
        arrived = [a.value() if isinstance(a, Ref) else a for a in given[0]]
        return Ref(function(*arrived, **given[1]))
    except Exception as e:
        about = {"proctitle": "task", "pid": os.getpid(), "ip": "127.0.0.1"}
        return Ref(None, RayTaskError(str(function), traceback.format_exc(), e, **about))


class _Method:
    def __init__(self, actor: _Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *args: Any, **kwargs: Any) -> Ref:
        assert self._actor.instance is not None, "the actor was killed"
        return _call(getattr(self._actor.instance, self._name), args, kwargs)


class _Actor:
    def __init__(self, instance: Any) -> None:
        self.instance = instance

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)


class _Remote:
    """A task, or the class of an actor."""

    def __init__(self, what: Any) -> None:
        self._what = what

    def options(self, **_options: Any) -> _Remote:
        return self

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self._what, type):
            return _call(self._what, args, kwargs)
        args, kwargs = Ref((args, kwargs)).value()
        return _Actor(self._what(*args, **kwargs))


def _remote(*given: Any, **_options: Any) -> Any:
    return _Remote(*given) if given else _Remote


def _get(what: Ref | Sequence[Ref], **_options: Any) -> Any:
    return what.value() if isinstance(what, Ref) else [ref.value() for ref in what]


def _kill(actor: _Actor, **_options: Any) -> None:
    actor.instance = None


def _stream(
    name: str,
    items: Sequence[Any],
    set_up: Callable[..., Any],
    args: tuple[Any, ...],
    _shape: Any,
    _traces: Any,
    _before: Any = None,
) -> Iterator[Any]:
    mapper = Guard(*Ref((set_up, args)).value())
    for item in items:
        yield unwrap(mapper.one(item))


@pytest.fixture
def in_process() -> Iterator[None]:
    """Ray's calls run in this process for the test."""
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def in_process_module() -> Iterator[None]:
    """Ray's calls run in this process for all of a module, also for fixtures that ask for it."""
    with in_this_process():
        yield


@contextmanager
def in_this_process(cpus: int = 3) -> Iterator[None]:
    """Ray as a machine of so many CPUs, for the block."""
    metric = SimpleNamespace(inc=lambda *a, **k: None, set=lambda *a, **k: None)
    threads, environment = torch.get_num_threads(), dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "is_initialized": lambda: True,
            "remote": _remote,
            "get": _get,
            "put": Ref,
            "wait": lambda refs, **_options: (refs[:1], refs[1:]),
            "kill": _kill,
            "cluster_resources": lambda: {"CPU": float(cpus)},
            "nodes": lambda: [
                {"Alive": True, "NodeID": "0" * 56, "Resources": {"CPU": float(cpus)}}
            ],
            "get_runtime_context": lambda: SimpleNamespace(
                get_job_id=lambda: "01000000", get_node_id=lambda: "0" * 56
            ),
        }.items():
            patch.setattr(ray, name, value)
        patch.setattr(ingest, "stream", _stream)
        patch.setattr(model_tasks, "stream", _stream)
        patch.setattr(prometheus, "_ray_metric", lambda _name: metric)
        try:
            yield
        finally:
            # Workers of a model take what suits a process of their own.
            torch.set_num_threads(threads)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
