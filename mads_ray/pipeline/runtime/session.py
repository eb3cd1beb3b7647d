"""Join a Ray cluster or start one here, and size the worker pool."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from mads_ray import runlog
from mads_ray.config import RayConfig
from mads_ray.errors import ConfigError, Stopped
from mads_ray.pipeline.runtime.local import local_ray

log = logging.getLogger(__name__)


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Use the Ray of this process, else the given or RAY_ADDRESS cluster, else a local one.

    Only a Ray that was started or joined here is left again at the end. A local one is closed to
    others (`local_ray`); of a cluster, its own authentication counts.
    """
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        with _joined(address), _told_to_stop():
            yield
    else:
        # One CPU more than there are: a pool on every core must leave Ray a spare, or it hangs.
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
    """SIGTERM (`ray job stop`, a drained node, a batch system) ends the run like Ctrl-C does: pools
    and workers go, the lock goes, and the user is told. Ray's own handler would tell nothing."""
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
        if told and not isinstance(e, Stopped):  # Ray raises its own for any signal
            raise Stopped from e
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def local_cpus() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def pool_shape(config: RayConfig, tasks: int, gpus_a_model: int = 1) -> tuple[int, int, float]:
    """(workers, CPUs a worker, GPUs a worker) for `tasks` pieces of work.

    Raises ConfigError where they do not fit the cluster. Of a cluster that grows as it is asked to,
    nothing is known before.
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
    if config.elastic:
        assert config.workers is not None
        return max(1, min(config.workers, tasks)), config.cpus_per_worker, gpus_each
    if gpus_each > gpus:
        raise ConfigError(
            f"ray.gpus_per_worker is {gpus_each:g} but the cluster has {gpus:g} GPUs in all"
        )
    fit = int((cpus - 1) // config.cpus_per_worker)
    if gpus_each:
        # A worker's GPUs are all of one node.
        nodes = [n["Resources"].get("GPU", 0.0) for n in ray.nodes() if n["Alive"]]
        fit = min(fit, sum(int(on_node // gpus_each) for on_node in nodes))
    if fit < 1 or (config.workers or 1) > fit:
        raise ConfigError(
            f"{config.workers or 1} worker(s) of {config.cpus_per_worker} CPUs and {gpus_each:g} "
            f"GPUs (of one node each) do not fit {cpus:g} CPUs (one stays free) and {gpus:g} GPUs; "
            "lower ray.workers, ray.cpus_per_worker or the GPUs of a worker"
        )
    return max(1, min(config.workers or fit, tasks)), config.cpus_per_worker, gpus_each


def record_cluster() -> None:
    """The event `cluster`: the nodes that Ray has now. Sizes in GiB."""
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
