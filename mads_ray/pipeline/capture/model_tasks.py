"""Pieces of work for models, streamed to as many models as there is room for."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mads_ray.config import CaptureConfig
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.runtime.data_stream import Preparation, stream
from mads_ray.pipeline.runtime.session import PoolShape, pool_shape
from mads_ray.pipeline.runtime.tasks import Item, Work
from mads_ray.pipeline.runtime.watch import Traces
from mads_ray.run_folder import RunFolder
from mads_ray.stored.records import read_marker


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A piece of work for a pool of models.

    `key`: its name in the journals. `marker`: the file that commits it and holds what the work
    returned. `item`: what the worker needs to know, as JSON.
    """

    key: str
    marker: Path
    item: Item


def group_task(folder: RunFolder, group: int, rows: Sequence[tuple[str, int]]) -> ModelTask:
    """To pool a group of the calibration sample, given by the (uid, shard) of its rows."""
    name = f"{group:05d}"
    item = {"group": group, "rows": rows}
    return ModelTask(f"group-{name}", folder.sample / f"done-{name}.json", item)


def shard_task(folder: RunFolder, shard: int, calibration: str) -> ModelTask:
    """To capture a shard under the calibration with this digest."""
    key = f"part-{shard:05d}-{calibration[:8]}"
    return ModelTask(key, folder.state_marker(shard), {"shard": shard})


def shard_of(key: str, calibration: str) -> int | None:
    """The shard of a `shard_task` by its key; None for other work."""
    kind, number, *digest = key.split("-")
    return int(number) if kind == "part" and digest == [calibration[:8]] else None


def on_models(
    run: Run,
    capture: CaptureConfig,
    name: str,
    tasks: Sequence[ModelTask],
    set_up: Callable[..., Work],
    *about: Any,
    before: Callable[[PoolShape], Preparation | None] | None = None,
) -> Generator[Item, None, None]:
    """Results of tasks, from as many models as the cluster has room for.

    `set_up(capture, *about, output, cpus, gpus)` opens a model in each worker. `before(shape)`: the
    stage before them. A result says under `gpus` how many its worker has.
    """
    if not tasks:
        return
    folder, ray = run.output, run.config.ray
    cpus_beside = (ray.tokenise_workers or 0) if before else 0
    shape = pool_shape(ray, len(tasks), capture.tensor_parallel, cpus_beside)
    marker_of = {json.dumps(task.item): task.marker for task in tasks}
    traces = Traces(
        lambda item: read_marker(marker_of[json.dumps(item)], dict), folder.open, ray.hang_s
    )
    args = (capture, *about, folder, shape.cpus, shape.gpus)
    items = [task.item for task in tasks]
    results = stream(name, items, set_up, args, shape, traces, before and before(shape))
    with closing(results):
        for result in results:
            yield result | {"gpus": shape.gpus}
