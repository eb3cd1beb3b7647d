"""The base core set: a selection starts from its counts and does not pick its rows again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import I32, Mask
from mads_ray.clustering.tree import ClusterTree
from mads_ray.errors import ConfigError
from mads_ray.features import load_rows
from mads_ray.finished_run import FinishedRun, read_selection
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.pipeline.select.ground_set import Base
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, StatesManifest
from mads_ray.submodular.objective import Objective


def base_runs(path: str) -> Iterator[FinishedRun]:
    """Yield a finished run, the run that it extends, and so on.

    Raises ConfigError where one of them is not finished, or extends itself.
    """
    following: str | None = path
    seen = set()
    while following is not None:
        folder = RunFolder(following)
        if folder.root in seen:
            raise ConfigError(f"--base-core-set {path}: {folder.root} builds on itself")
        seen.add(folder.root)
        run = FinishedRun.find(folder)
        if run is None:
            raise ConfigError(f"--base-core-set {folder.root} holds no finished run (no run.json)")
        yield run
        following = run.base_core_set


def refuse_to_lose_bases(path: str | None, output: RunFolder) -> None:
    """Raise ConfigError where the output folder holds a run that the new core set extends.

    `path`: the core set to extend, or None.
    """
    if path is not None and any(run.folder.root == output.root for run in base_runs(path)):
        raise ConfigError(
            f"--output {output.root} is a base of this core set, which would be lost; choose "
            "another folder"
        )


def base_of(path: str, objective: Objective, tree: ClusterTree, manifest: StatesManifest) -> Base:
    """Counts and uids of a finished run's core set, with those of the runs that it extends.

    Raises ConfigError where there is no finished run, and MismatchError where its states have
    another calibration or have changed, or where selection/ is not what that run wrote.
    """
    counts_D, uids = objective.empty_counts(), list[npt.NDArray[np.uint64]]()
    for run in base_runs(path):
        same = {"calibration": manifest.calibration}
        run.states.manifest.require(same, run.states.folder.states)
        calls = (
            (s, run.folder.selection_file(s.shard), tree, objective) for s in run.states.shards
        )
        of_run = [np.empty((0, 2), np.uint64)]
        for part_D, part_uids in map_tasks(_selected, calls):
            counts_D = counts_D + part_D
            of_run.append(part_uids)
        run.require_picks(np.concatenate(of_run))
        uids += of_run
    words = np.concatenate(uids)
    return Base(counts_D, words, len(words))


def _selected(
    shard: CapturedShard, selection: Path, tree: ClusterTree, objective: Objective
) -> tuple[I32, npt.NDArray[np.uint64]]:
    picked = np.flatnonzero(picks_of(selection, shard))
    rows = load_rows([shard], tree).take(picked)
    return objective.counts(rows), rows.uids_N2


def picks_of(selection: Path, shard: CapturedShard) -> Mask:
    """Which rows of a shard a finished run selected, by its file in selection/: bool (N,).

    Raises DamagedFileError where that file holds other rows than the states.
    """
    ranks = read_selection(selection, shard, ["rank"]).column("rank")
    picked: Mask = ranks.is_valid().to_numpy()
    return picked
