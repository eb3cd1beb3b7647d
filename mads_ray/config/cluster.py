"""Settings of Ray."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mads_ray.config.frozen import Frozen


class RayConfig(Frozen):
    """Where the work runs, and how long to wait for it."""

    address: str | None = Field(
        None, description="Ray cluster to run on; by default RAY_ADDRESS, else a local Ray."
    )
    workers: int | None = Field(
        None, ge=1, description="Capture workers; by default one a GPU, or one a CPU without GPUs."
    )
    tokenise_workers: int | None = Field(
        None,
        ge=0,
        description="Processes that tokenise ahead of the capture workers; by default up to 2 a "
        "worker with a GPU, where there are CPUs. 0: capture workers do it themselves.",
    )
    selection_workers: int | None = Field(
        None, ge=1, description="Processes that hold states in the selection; by default one a CPU."
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPUs, and torch threads, of a worker.")
    gpus_per_worker: float | None = Field(
        None,
        ge=0,
        description="GPUs of a worker; by default 1 (or capture.tensor_parallel) where the "
        "cluster has GPUs, else 0. With 0.5, two workers share one.",
    )
    elastic: bool = Field(
        False,
        description="Ask the cluster for nodes for all of ray.workers at once, and use them as "
        "they come. For clusters with an autoscaler; give gpus_per_worker too.",
    )
    hang_s: float = Field(
        900.0, gt=0, description="Seconds after which a worker that finishes no batch is given up."
    )

    @model_validator(mode="after")
    def _elastic_says_what(self) -> Self:
        if self.elastic and (self.workers is None or self.gpus_per_worker is None):
            raise ValueError("elastic needs workers and gpus_per_worker: what to ask for")
        return self
