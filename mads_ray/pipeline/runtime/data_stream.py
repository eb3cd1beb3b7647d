"""Stream JSON items through actors with Ray Data: an item a task, in whatever order."""

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

from mads_ray.pipeline.runtime.tasks import _RETRIES, LOST, Guarded, Item, Work, gave_up, opened

log = logging.getLogger("mads_ray")
_STREAMS = 5
_NO_PROGRESS_S = 6 * 3600  # a shard of long rows on one CPU is slow, not hung


class _Mapper(Guarded):
    """For Ray Data."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """JSON items to JSON results."""
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

    `set_up(*args)` runs once in every actor and returns the work. One block an item: Ray then
    retries and moves single items. Where it gives up all the same, as when a node is lost, what is
    left is streamed again.
    """
    left = dict(enumerate(items))
    for attempt in range(1, _STREAMS + 1):
        try:
            for number, result in _stream(name, left, set_up, args, workers):
                del left[number]
                yield opened(result)
            return
        except RayError as e:
            if attempt == _STREAMS or not isinstance(e, LOST):
                raise gave_up(e) from e
            log.warning("%s: workers were lost; %d of %d to go", name, len(left), len(items))


def _stream(
    name: str,
    items: dict[int, Item],
    set_up: Callable[..., Work],
    args: tuple[Any, ...],
    workers: int,
) -> Iterator[tuple[int, Item]]:
    """Results by the items' numbers, as they come."""
    if not items:
        return
    import ray.data  # half a second that tasks and workers, which share this module, need not wait

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
    """Without a terminal only our own progress lines are printed; Ray keeps its log files."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    with warnings.catch_warnings():
        # max_restarts and max_task_retries have no other way in yet (Ray 2.60), and without them
        # a row that kills its process would be retried for ever.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        if not interactive:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
