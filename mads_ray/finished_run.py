"""A finished run, by its folder: the settings, states, tree and objective of its core set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig, of_stored_run
from mads_ray.corpus.row_table import table_to_rows
from mads_ray.corpus.row_text import loads
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.features import configured_objective
from mads_ray.ledger import Counts
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates
from mads_ray.storage import read_json
from mads_ray.submodular.objective import Objective

_GROUPS = ("clustering", "selection")  # with the seed and the format, what a core set depends on


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run made. `output` is absolute; `metrics` and `timings` (seconds) as in run.json."""

    output: Path
    counts: Counts
    metrics: dict[str, Any]
    timings: dict[str, float]

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.output / "report.html"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The core set in rank order, a row at a time.

        In Parquet a null stands for a field that a row has not.
        """
        for part in sorted((self.output / "core_set").glob("part-*")):
            if part.suffix == ".parquet":
                for batch in pq.ParquetFile(part).iter_batches():
                    yield from table_to_rows(batch)
            else:
                with part.open("rb") as lines:  # as text, other line ends would count
                    yield from map(loads, lines)

    def selection(self) -> pa.Table:
        """Every example of the corpus: uid, row_id, source_file, source_row, rank, gain, cluster,
        like, n_tokens, copies, near_duplicate_of."""
        return pq.read_table(sorted((self.output / "selection").glob("part-*.parquet")))


class FinishedRun:
    """A finished run. `summary` is its run.json; the rest is read when it is asked for.

    Example:
        >>> from mads_ray import FinishedRun
        >>> finished = FinishedRun.open("runs/mine")
        >>> finished.summary["counts"]["selected"], finished.states.examples
        (6, 40)
        >>> finished.tree.level_sizes
        (8, 16)
    """

    def __init__(self, folder: RunFolder, summary: dict[str, Any]) -> None:
        self.folder = folder
        self.summary = summary

    @classmethod
    def find(cls, folder: RunFolder) -> FinishedRun | None:
        """The run that is finished in a folder, if there is one."""
        summary = read_json(folder.run_json)
        return None if summary is None else cls(folder, summary)

    @classmethod
    def open(cls, path: str | Path) -> FinishedRun:
        """The finished run in a folder. Raises ConfigError where there is none."""
        folder = RunFolder(path)
        found = cls.find(folder)
        if found is None:
            raise ConfigError(f"{folder.root} holds no finished run (no run.json)")
        return found

    @cached_property
    def config(self) -> RunConfig:
        """Its settings. Raises ConfigError for settings that this version does not know."""
        try:
            return RunConfig.model_validate(of_stored_run(self.summary["config"]))
        except ValidationError as e:
            raise ConfigError(
                f"{self.folder.run_json} holds settings of another version of mads_ray"
            ) from e

    @property
    def base_core_set(self) -> str | None:
        """The run folder whose core set this one extends."""
        path: str | None = self.summary["config"]["selection"].get("base_core_set")
        return path

    @cached_property
    def states(self) -> CapturedStates:
        """The states that it selected from.

        Raises IncompleteError where some are gone, MismatchError where they are others by now.
        """
        states = CapturedStates.open(RunFolder(self.summary["states_from"]))
        if states.checksum != self.summary["states_checksum"]:
            raise MismatchError(
                f"{states.folder.states} holds other states than {self.folder.root} selected "
                "from: select again"
            )
        return states

    @cached_property
    def tree(self) -> ClusterTree:
        """The cluster tree that it selected with."""
        return ClusterTree.load(self.folder.selection_tree)

    @cached_property
    def objective(self) -> Objective:
        """The objective that it selected by."""
        stored = [self.folder.target_counts, self.folder.pool_counts]
        counts = [np.load(f, allow_pickle=False) if f.exists() else None for f in stored]
        return configured_objective(self.config.selection, self.states.manifest, self.tree, *counts)

    def result(self) -> RunResult:
        """What the run returned."""
        counts = Counts(**self.summary["counts"])
        metrics, timings = self.summary["metrics"], self.summary["timings"]
        return RunResult(self.folder.root, counts, metrics, timings)

    def differences(self, config: RunConfig, states_from: RunFolder) -> list[str]:
        """One line for every setting of these that the run has otherwise."""
        wanted = _settings(config) | {"states": str(states_from.root)}
        try:
            theirs = _settings(self.config) | {"states": self.summary["states_from"]}
        except ConfigError:
            return ["config: stored by another version of mads_ray"]
        return [
            f"{name}: stored {theirs[name]!r}, wanted {value!r}"
            for name, value in wanted.items()
            if theirs[name] != value
        ]


def refuse_other_core_set(config: RunConfig, states_from: RunFolder, output: RunFolder) -> None:
    """Raise MismatchError where the output holds a finished core set of other settings."""
    finished = FinishedRun.find(output)
    found = [] if finished is None else finished.differences(config, states_from)
    if found:
        raise MismatchError(
            f"{output.root} holds a finished core set of other settings:\n  "
            + "\n  ".join(found)
            + "\nUse another --output, or --overwrite to replace it."
        )


def _settings(config: RunConfig) -> dict[str, Any]:
    whole = config.model_dump(mode="json")
    settings = {"seed": whole["seed"], "output_format": whole["output_format"]}
    for group in _GROUPS:
        settings |= {f"{group}.{name}": value for name, value in whole[group].items()}
    # Where scratch files were has no part in the result, and a fraction may be the default.
    del settings["selection.scratch"]
    settings["selection.fraction"] = config.selection.effective_fraction
    return settings
