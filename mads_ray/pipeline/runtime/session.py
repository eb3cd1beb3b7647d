"""Join a Ray cluster or start one here, and size the worker pool."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from mads_ray import runlog
from mads_ray.config import RayConfig
from mads_ray.errors import ConfigError, Stopped
from mads_ray.pipeline.runtime.local import local_ray

log = logging.getLogger(__name__)


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Use the Ray of this process, else the cluster given or in RAY_ADDRESS, else a local one.

    At the end a Ray that was started or joined here is left again. A local one is closed to other
    users (`local_ray`); a cluster has its own authentication.
    """
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        with _joined(address), _told_to_stop():
            yield
    else:
        # One CPU more than there are: Ray hangs where actors take every CPU.
        with (
            local_ray(num_cpus=local_cpus() + 1, logging_level=logging.WARNING),
            _told_to_stop(),
        ):
            yield


@contextmanager
def _joined(address: str) -> Iterator[None]:
    ray.init(address=address, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """Let SIGTERM (`ray job stop`, a drained node, a batch system) end the run as Ctrl-C does.

    All workers end, the lock is released, and the user is told. Ray's own handler says nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    told = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal told
        told = True
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as e:
        if told and not isinstance(e, Stopped):  # Ray raises KeyboardInterrupt for any signal
            raise Stopped from e
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def local_cpus() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class PoolShape:
    """A pool of `workers` with so many CPUs and GPUs each, up to `most` where there is room.

    `at_once`: pieces of work that a worker has at once. On a GPU two, so that one is read or
    written while the other is computed.
    """

    workers: int
    most: int
    cpus: int = 1
    gpus: float = 0.0
    at_once: int = 1


def pool_shape(
    config: RayConfig, tasks: int, gpus_a_model: int = 1, cpus_beside: int = 0
) -> PoolShape:
    """The workers for `tasks` pieces of work: as many as there is room for, or as were asked for.

    `cpus_beside`: CPUs that other processes of the same stage take.
    Raises ConfigError where they do not fit the cluster. With `config.elastic` the cluster grows on
    demand, so that its size is not checked.
    """
    resources = ray.cluster_resources()
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
    gpus_each = config.gpus_per_worker
    if gpus_each is None:
        gpus_each = float(gpus_a_model) if gpus else 0.0
    if gpus_a_model > 1 and gpus_each not in (0, gpus_a_model):
        raise ConfigError(
            f"capture.tensor_parallel is {gpus_a_model}: leave ray.gpus_per_worker out, not "
            f"{gpus_each:g}"
        )
    at_once = 2 if gpus_each else 1
    if config.elastic:
        assert config.workers is not None
        workers = max(1, min(config.workers, tasks))
        return PoolShape(workers, workers, config.cpus_per_worker, gpus_each, at_once)
    if gpus_each > gpus:
        raise ConfigError(
            f"ray.gpus_per_worker is {gpus_each:g} but the cluster has {gpus:g} GPUs in all"
        )
    fit = int((cpus - 1 - cpus_beside) // config.cpus_per_worker)
    if gpus_each:
        # All GPUs of a worker are on one node.
        nodes = [n["Resources"].get("GPU", 0.0) for n in ray.nodes() if n["Alive"]]
        fit = min(fit, sum(int(on_node // gpus_each) for on_node in nodes))
    if fit < 1 or (config.workers or 1) > fit:
        raise ConfigError(
            f"{config.workers or 1} worker(s) of {config.cpus_per_worker} CPUs and {gpus_each:g} "
            f"GPUs (of one node each) do not fit {cpus:g} CPUs (one stays free) and {gpus:g} GPUs; "
            "lower ray.workers, ray.cpus_per_worker or the GPUs of a worker"
        )
    workers = max(1, min(config.workers or fit, tasks))
    most = max(1, min(config.workers or tasks, tasks))
    return PoolShape(workers, most, config.cpus_per_worker, gpus_each, at_once)


def record_cluster() -> None:
    """Write the event `cluster`: the nodes that Ray has now. Sizes in GiB."""
    resources = ray.cluster_resources()
    runlog.write(
        "cluster",
        job=ray.get_runtime_context().get_job_id(),
        nodes=sum(node["Alive"] for node in ray.nodes()),
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_gib=resources.get("memory", 0.0) / 2**30,
        object_store_gib=resources.get("object_store_memory", 0.0) / 2**30,
    )
