"""The pool whose actors hold the model, for calibration and capture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mads_ray.capture.attempt import pulses, read_past, witness
from mads_ray.config import RunConfig
from mads_ray.errors import ConfigError
from mads_ray.ledger import RunFolder
from mads_ray.pipeline.pool import Pool, Watch
from mads_ray.pipeline.session import pool_shape
from mads_ray.pipeline.stream import Item, Work
from mads_ray.storage import read_json


def model_pool(
    config: RunConfig,
    folder: RunFolder,
    name: str,
    items: list[Item],
    key: Callable[[Item], str],
    marker: Callable[[Item], Path],
    set_up: Callable[..., Work],
    *about: Any,
) -> Pool:
    """As many models as the cluster has room for, to work through items."""
    asked = False

    def shape(tasks: int) -> tuple[int, int, float]:
        nonlocal asked
        try:
            found = pool_shape(config.ray, tasks, config.capture.tensor_parallel)
        except ConfigError:
            if not asked:
                raise
            # A node has gone since: with as many workers as there is room for.
            fewer = config.ray.model_copy(update={"workers": None})
            found = pool_shape(fewer, tasks, config.capture.tensor_parallel)
        asked = True
        return found

    _, cpus, gpus = shape(len(items)) if items else (0, 1, 0.0)
    watch = Watch(
        key,
        lambda: pulses(folder.open),
        lambda item: read_past(folder.open, key(item)).settled,
        lambda item: read_json(marker(item)),
        lambda item: witness(folder.open, key(item)),
        config.ray.hang_s,
    )
    args = (config.capture, *about, folder, cpus, gpus)
    return Pool(name, items, set_up, args, shape, watch, gpus)
