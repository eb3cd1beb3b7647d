"""Ray Data's settings for a stream. What is not public, or will change, is only here.

Ray is pinned below 2.64 (pyproject.toml). Of Ray Data 2.60 these are used that its documentation
does not promise: `DataContext.custom_execution_callback_classes` (called in the driver at each step
of its scheduling; an exception ends the execution) and `ExecutionOptions.exclude_resources`, which
is deprecated and has no replacement for a CPU that stays free.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

_NO_PROGRESS_S = 6 * 3600  # a file on a slow file system is slow, not hung
_FREE_CPUS = 1  # as `pool_shape`


@contextmanager
def data_context(patient: bool) -> Iterator[None]:
    """Ray Data's settings for the block. `patient`: something else notices that nothing gets done.

    Without a terminal Ray Data is quiet, and our own progress lines are printed. Ray still writes
    its log files.
    """
    import ray.data
    from ray.data import ExecutionResources

    context = ray.data.DataContext.get_current().copy()
    interactive = sys.stderr.isatty()
    context.enable_progress_bars = interactive
    context.print_on_execution_start = False
    context.max_errored_blocks = 0  # above 0 drops whole blocks without a word
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = -1 if patient else _NO_PROGRESS_S
    # With one task an actor, so that none waits behind another, a full pool is used to 1.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    callback: Any = _Steps
    context.custom_execution_callback_classes = [callback]
    logger = logging.getLogger("ray.data")
    before = logger.level
    with warnings.catch_warnings(), ray.data.DataContext.current(context):
        warnings.filterwarnings("ignore", message=".*exclude_resources")
        context.execution_options.exclude_resources = ExecutionResources(cpu=_FREE_CPUS)
        if not interactive:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)


@contextmanager
def driver_watch(look: Callable[[], None]) -> Iterator[None]:
    """In the block Ray Data calls `look` as it schedules. What it raises ends the execution."""
    _Steps.look = look
    try:
        yield
    finally:
        _Steps.look = None


class _Steps:
    """An `ExecutionCallback`. The context, which goes to every actor, only holds its name."""

    look: ClassVar[Callable[[], None] | None] = None

    def before_execution_starts(self, executor: object) -> None:
        """Nothing to do."""

    def on_execution_step(self, executor: object) -> None:
        """Look."""
        if _Steps.look is not None:
            _Steps.look()

    def after_execution_succeeds(self, executor: object) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Nothing to do."""
