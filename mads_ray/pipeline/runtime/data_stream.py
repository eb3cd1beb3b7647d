"""Stream JSON items through actors with Ray Data, one item a task, in no fixed order."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from ray.exceptions import RayError

from mads_ray.pipeline.runtime.tasks import _RETRIES, LOST, Guard, Item, Work, ray_failure, unwrap

log = logging.getLogger(__name__)
_STREAMS = 5
_NO_PROGRESS_S = 6 * 3600  # a shard of long rows on one CPU is slow, not hung


class _Mapper(Guard):
    """The callable class that Ray Data maps over batches of JSON items."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Work on a batch of JSON items; return their results as JSON."""
        results = [self.one(json.loads(text)) for text in batch["item"]]
        texts = np.array([json.dumps(r) for r in results], dtype=object)
        return {"number": batch["number"], "result": texts}


def stream(
    name: str,
    items: Sequence[Item],
    set_up: Callable[..., Work],
    args: tuple[Any, ...],
    *,
    workers: int,
) -> Iterator[Item]:
    """Stream JSON items through a fixed pool of actors with Ray Data; yield results as they come.

    `set_up(*args)` runs once in every actor and returns the work. Each item is a block of its own,
    so that Ray retries and moves single items. When Ray gives up, for example after a node is
    lost, the items that are left are streamed again.
    """
    left = dict(enumerate(items))
    for attempt in range(1, _STREAMS + 1):
        try:
            for number, result in _stream(name, left, set_up, args, workers):
                del left[number]
                yield unwrap(result)
            return
        except RayError as e:
            if attempt == _STREAMS or not isinstance(e, LOST):
                raise ray_failure(e) from e
            log.warning("%s: workers were lost; %d of %d to go", name, len(left), len(items))


def _stream(
    name: str,
    items: dict[int, Item],
    set_up: Callable[..., Work],
    args: tuple[Any, ...],
    workers: int,
) -> Iterator[tuple[int, Item]]:
    """Yield (number of the item, its result) as they are done."""
    if not items:
        return
    import ray.data  # takes half a second: only where something is streamed

    context = ray.data.DataContext.get_current().copy()
    interactive = sys.stderr.isatty()
    context.enable_progress_bars = interactive
    context.print_on_execution_start = False
    context.max_errored_blocks = 0  # above 0 drops whole blocks without a word
    context.max_consecutive_actor_init_deaths = _RETRIES
    context.execution_no_progress_timeout_s = _NO_PROGRESS_S
    with ray.data.DataContext.current(context), _quiet(interactive):
        dataset = ray.data.from_items(
            [{"number": n, "item": json.dumps(item)} for n, item in items.items()],
            override_num_blocks=len(items),
        ).map_batches(
            type(name.title(), (_Mapper,), {}),  # the name of the operator in Ray's dashboard
            fn_constructor_args=(set_up, args),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            max_restarts=_RETRIES,
            max_task_retries=_RETRIES,
        )
        dataset.set_name(f"mads_ray_{name}")
        for row in dataset.iter_rows():
            yield int(row["number"]), json.loads(row["result"])


@contextmanager
def _quiet(interactive: bool) -> Iterator[None]:
    """Without a terminal print our own progress lines only. Ray still writes its log files."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    with warnings.catch_warnings():
        # `ray_remote_args` is the only way to set max_restarts and max_task_retries (Ray 2.60).
        # Without them Ray would retry a row that kills its process for ever.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        if not interactive:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
