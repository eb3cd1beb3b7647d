"""The target: a few examples of a task. The core set should cover what they activate."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from mads_ray.arrays import I32
from mads_ray.clustering.tree import ClusterTree
from mads_ray.corpus.reading.splits import ALL
from mads_ray.errors import MismatchError
from mads_ray.features import configured_objective, load_rows
from mads_ray.pipeline.capture.stage import capture
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.ingest import find_input, ingest
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, CapturedStates
from mads_ray.submodular.objective import Objective


def target_counts(
    run: Run, patterns: tuple[str, ...], states: CapturedStates, tree: ClusterTree
) -> I32:
    """Capture the target examples and count how many have each feature: int32 (D,).

    They get the calibration of the states, and a folder of their own in the output.
    """
    plain = configured_objective(run.config.selection, states.manifest, tree)
    return feature_counts(_captured(run, patterns, states.folder).shards, tree, plain)


def feature_counts(shards: Sequence[CapturedShard], tree: ClusterTree, objective: Objective) -> I32:
    """How many examples of some shards have each feature, int32 (D,)."""
    total = objective.empty_counts()
    for part_D in map_tasks(_counts, ((s, tree, objective) for s in shards)):
        total = total + part_D
    return total


def _captured(run: Run, patterns: tuple[str, ...], calibrated: RunFolder) -> CapturedStates:
    capturing = run.config.capture.model_copy(update={"calibration_from": str(calibrated.root)})
    # All splits: a target may be a test set.
    corpus = run.config.corpus.model_copy(update={"split": (ALL,)})
    folder = run.output.target
    of_target = {"input": patterns, "output": str(folder), "capture": capturing, "corpus": corpus}
    mine = run.of(run.config.model_copy(update=of_target))
    found = find_input(patterns, corpus, mine.output)
    try:
        return capture(mine, capturing, ingest(mine, corpus, found))
    except MismatchError:  # the folder holds an earlier target, and nothing else
        shutil.rmtree(folder)
        return capture(mine, capturing, ingest(mine, corpus, found))


def _counts(shard: CapturedShard, tree: ClusterTree, objective: Objective) -> I32:
    return objective.counts(load_rows([shard], tree))
