"""The run that is under way. Every stage gets it: settings, output folder and clock."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from mads_ray import runlog
from mads_ray.config import RunConfig
from mads_ray.doctor import versions_of
from mads_ray.pipeline.runtime.progress import Clock
from mads_ray.pipeline.runtime.session import ray_session, record_cluster
from mads_ray.run_folder import RunFolder

P = ParamSpec("P")
R = TypeVar("R")
_MOST_INPUTS = 20


@dataclass(frozen=True, slots=True)
class Run:
    """What every stage needs beside its own settings and the results of those before it."""

    config: RunConfig
    output: RunFolder
    clock: Clock

    def stage(
        self, name: str, function: Callable[Concatenate[Run, P], R], *args: P.args, **more: P.kwargs
    ) -> R:
        """Call `function(self, *args)`; time it and log it under this name."""
        with self.clock.stage(name):
            return function(self, *args, **more)

    def of(self, config: RunConfig) -> Run:
        """The same run with other settings and with the output folder that they name."""
        return replace(self, config=config, output=RunFolder(config.output))


@contextmanager
def open_run(stages: str, config: RunConfig, output: RunFolder, clock: Clock) -> Iterator[Run]:
    """Open a run for the block: lock the output folder, begin its log, join or start Ray.

    `stages` is run, capture or select. Raises MismatchError where another run works in the folder,
    or where it holds something else than a run.
    """
    with (
        output.claim(),
        runlog.recording(output.log, **beginning(stages, config)),
        ray_session(config.ray),
    ):
        record_cluster()
        yield Run(config, output, clock)


def beginning(stages: str, config: RunConfig) -> dict[str, Any]:
    """Fields of the event `run_started`: settings that are not defaults, versions and machine."""
    settings = config.model_dump(mode="json", exclude_defaults=True)
    settings["input"] = list(config.input[:_MOST_INPUTS])
    return {
        "stages": stages,
        "command": runlog.command_line()[:2000],
        "settings": settings,
        "inputs": len(config.input),
        "versions": versions_of(),
        "python": platform.python_version(),
        "host": platform.node(),
        "pid": os.getpid(),
        "ray_address": config.ray.address or os.environ.get("RAY_ADDRESS"),
    }
