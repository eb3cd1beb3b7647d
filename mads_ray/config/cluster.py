"""Settings of Ray."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mads_ray.config.frozen import Frozen


class RayConfig(Frozen):
    """Where the work runs, and how long to wait for it."""

    address: str | None = Field(None, description="Ray cluster; default: RAY_ADDRESS, else local")
    workers: int | None = Field(
        None, ge=1, description="capture workers; default: one a GPU, or one a CPU without GPUs"
    )
    selection_workers: int | None = Field(
        None, ge=1, description="processes that hold states in the selection; default: one a CPU"
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPUs, and torch threads, of a worker")
    gpus_per_worker: float | None = Field(
        None,
        ge=0,
        description="default 1 (or capture.tensor_parallel) where the cluster has GPUs, else 0; "
        "0.5 puts two workers on each",
    )
    elastic: bool = Field(
        False,
        description="the cluster brings nodes as they are asked for: ask for all of ray.workers at "
        "once, and use them as they come (give gpus_per_worker too)",
    )
    hang_s: float = Field(
        900.0, gt=0, description="give a worker up that finishes no batch in so many seconds"
    )

    @model_validator(mode="after")
    def _elastic_says_what(self) -> Self:
        if self.elastic and (self.workers is None or self.gpus_per_worker is None):
            raise ValueError("elastic needs workers and gpus_per_worker: what to ask for")
        return self
