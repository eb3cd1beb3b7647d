"""A run as its log and its metrics see it: what it began with, and its stages."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import ray

from mads_ray import runlog
from mads_ray.config import RunConfig
from mads_ray.doctor import versions_of
from mads_ray.pipeline.metrics import observe

_PACKAGES = ("mads_ray", "ray", "torch", "transformers", "numpy", "pyarrow")
_MOST_INPUTS = 20


def beginning(stages: str, config: RunConfig) -> dict[str, Any]:
    """The fields of `run_started`: settings that are not the defaults, and where they run."""
    settings = config.model_dump(mode="json", exclude_defaults=True)
    settings["input"] = list(config.input[:_MOST_INPUTS])
    return {
        "stages": stages,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:2000],
        "settings": settings,
        "inputs": len(config.input),
        "versions": versions_of(_PACKAGES),
        "python": platform.python_version(),
        "host": platform.node(),
        "pid": os.getpid(),
        "ray_address": config.ray.address or os.environ.get("RAY_ADDRESS"),
    }


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


class Clock:
    """Seconds a stage, and in all since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._stages: dict[str, float] = {}

    def stage(self, name: str) -> Clock:
        """Use as a context: `with clock.stage("capture")`."""
        self._name = name
        return self

    def __enter__(self) -> None:
        self._entered = time.monotonic()
        runlog.write("stage_started", stage=self._name)
        observe("mads_ray_stage", 1, self._name)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        seconds = round(time.monotonic() - self._entered, 2)
        observe("mads_ray_stage", 0, self._name)
        if error is None:  # else `run_failed` follows
            self._stages[self._name] = seconds
            runlog.write("stage_finished", stage=self._name, seconds=seconds)

    def timings(self) -> dict[str, float]:
        """Seconds of the stages so far, and `total`."""
        return {**self._stages, "total": round(time.monotonic() - self._started, 2)}
