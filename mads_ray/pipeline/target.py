"""A target set: a few examples whose neurons the core set should cover."""

from __future__ import annotations

import shutil
from pathlib import Path

from mads_ray.arrays import I32
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig
from mads_ray.corpus.reading.splits import ALL
from mads_ray.errors import MismatchError
from mads_ray.features import load_rows
from mads_ray.pipeline.capture import capture
from mads_ray.pipeline.ingest import find_input, ingest
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, captured_shards
from mads_ray.submodular.objective import Objective


def capture_target(config: RunConfig, source: RunFolder, root: Path) -> list[CapturedShard]:
    """Capture the target examples with the calibration of the corpus, in a folder of their own."""
    folder = RunFolder(root)
    capturing = config.capture.model_copy(update={"calibration_from": str(source.root)})
    # A target may well be a test set.
    corpus = config.corpus.model_copy(update={"split": (ALL,)})
    config = config.model_copy(
        update={
            "input": config.selection.target,
            "output": str(root),
            "capture": capturing,
            "corpus": corpus,
        }
    )
    files = find_input(config, folder)
    try:
        ledger = ingest(config, folder, files)
        records = capture(config, folder, ledger)
    except MismatchError:  # an earlier target's; nothing but ours is in there
        shutil.rmtree(root)
        ledger = ingest(config, folder, files)
        records = capture(config, folder, ledger)
    return captured_shards(folder, records)


def target_counts(shards: list[CapturedShard], tree: ClusterTree, objective: Objective) -> I32:
    """How often the examples of a target set hold each feature."""
    total = objective.empty_counts()
    for part_D in map_tasks(_all, ((s, tree, objective) for s in shards)):
        total = total + part_D
    return total


def _all(shard: CapturedShard, tree: ClusterTree, objective: Objective) -> I32:
    return objective.counts(load_rows([shard], tree))
