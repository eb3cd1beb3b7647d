"""What the workers of calibration do. They import torch; the driver does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mads_ray.capture.history import discard
from mads_ray.config import CaptureConfig
from mads_ray.pipeline.capture.model_tasks import group_task
from mads_ray.pipeline.capture.opening import (
    committed_result,
    journal_of,
    open_configured,
    refuse_sick_node,
)
from mads_ray.pipeline.runtime.tasks import Item, Work
from mads_ray.run_folder import RunFolder
from mads_ray.storage import write_json
from mads_ray.stored.examples import read_examples


def calibrator(capture: CaptureConfig, folder: RunFolder, cpus: int, gpus: float) -> Work:
    """Work that pools one group of the calibration sample."""
    from mads_ray.capture.calibration_sample import write_group
    from mads_ray.capture.engines.engine import PooledRows, RunStats, refuse_total_failure
    from mads_ray.capture.reducer import unpack_pooled
    from mads_ray.capture.shard import tokenise

    model = open_configured(capture, cpus, gpus)
    engine = model.engine

    def work(item: Item) -> Item:
        group, rows = item["group"], item["rows"]
        task = group_task(folder, group, rows)
        if (committed := committed_result(folder, task)) is not None:
            return committed
        order = [uid for uid, _ in rows]
        stats = RunStats()
        packed: dict[int, npt.NDArray[np.float32]] = {}

        def keep(rows: Sequence[int], packed_BW: npt.NDArray[np.float32]) -> None:
            packed.update(zip(rows, packed_BW, strict=True))

        with journal_of(folder, task) as journal:
            refuse_sick_node(journal, task.key, len(order))
            examples = tokenise(model.renderer, _texts(folder, rows), stats, journal)
            engine.run([examples], PooledRows(), stats, keep, journal)
        if packed:
            kept = sorted(packed)
            pooled = unpack_pooled(np.stack([packed[i] for i in kept]), engine.layers, engine.width)
            write_group(folder.sample, group, [order[i] for i in kept], *pooled)
        refuse_total_failure(stats, len(order))
        result = {
            "rows": len(order),
            "tokens": stats.tokens,
            "padded_tokens": stats.padded_tokens,
            "model": model.facts,
        }
        write_json(task.marker, result)
        discard(folder.open, task.key)
        return result

    return work


def _texts(folder: RunFolder, rows: Sequence[tuple[str, int]]) -> dict[int, str]:
    """Messages of some (uid, shard), by their place in this order."""
    uids_of = defaultdict(list)
    for uid, shard in rows:
        uids_of[shard].append(uid)
    texts: dict[str, str] = {}
    for shard, uids in sorted(uids_of.items()):
        mine = pc.field("uid").isin(uids)
        table = read_examples(folder.shard_file(shard), ["uid", "messages"], filters=mine)
        texts.update((row["uid"], row["messages"]) for row in table.to_pylist())
    return {i: texts[uid] for i, (uid, _) in enumerate(rows)}
