"""Core sets that are already there: counts that a selection starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mads_ray.arrays import I32
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig
from mads_ray.errors import ConfigError
from mads_ray.features import load_rows
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, StatesManifest, captured_shards
from mads_ray.storage import read_json
from mads_ray.submodular.objective import Objective


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A core set to extend: its counts, and its uids, which may not be picked again (its budget is
    what the driver holds of it)."""

    counts_D: I32
    uids_N2: npt.NDArray[np.uint64]
    rows: int


def base_runs(path: str) -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    """A finished run and those it extends, each with its run.json. Raises ConfigError where one is
    not finished, or builds on itself."""
    following: str | None = path
    seen = set()
    while following is not None:
        folder = RunFolder(following)
        if folder.root in seen:
            raise ConfigError(f"--base-core-set {path}: {folder.root} builds on itself")
        seen.add(folder.root)
        summary = read_json(folder.run_json)
        if summary is None:
            raise ConfigError(f"--base-core-set {folder.root} holds no finished run (no run.json)")
        yield folder, summary
        following = summary["config"]["selection"].get("base_core_set")


def keep_bases(config: RunConfig, output: RunFolder) -> None:
    """Raise ConfigError where the output is a run that the new core set builds on."""
    path = config.selection.base_core_set
    if path is not None and any(folder.root == output.root for folder, _ in base_runs(path)):
        raise ConfigError(
            f"--output {output.root} is a base of this core set, which would be lost; choose "
            "another folder"
        )


def base_of(path: str, objective: Objective, tree: ClusterTree, manifest: StatesManifest) -> Base:
    """The core set of a finished run, and of the one it extended, and so on.

    Raises ConfigError where there is none, MismatchError where its states do not compare.
    """
    counts_D, uids = objective.empty_counts(), []
    for folder, summary in base_runs(path):
        source = RunFolder(summary["states_from"])
        stored = StatesManifest.load(source.manifest)
        stored.require({"calibration": manifest.calibration}, source.states)
        records = source.check_states(source.load_ledger(), stored.calibration)
        shards = captured_shards(source, records)
        calls = ((s, folder.selection_file(s.shard), tree, objective) for s in shards)
        for part_D, part_uids in map_tasks(_selected, calls):
            counts_D = counts_D + part_D
            uids.append(part_uids)
    words = np.concatenate(uids)
    return Base(counts_D, words, len(words))


def _selected(
    shard: CapturedShard, selection: Path, tree: ClusterTree, objective: Objective
) -> tuple[I32, npt.NDArray[np.uint64]]:
    ranks = pq.read_table(selection, columns=["rank"]).column("rank")
    picked = np.flatnonzero(ranks.is_valid().to_numpy())
    rows = load_rows([shard], tree).take(picked)
    return objective.counts(rows), rows.uids_N2
