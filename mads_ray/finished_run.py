"""A finished run, by its folder: the settings, states, tree and objective of its core set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from mads_ray.arrays import I32, U64
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig, of_stored_run
from mads_ray.corpus.row_table import table_to_rows
from mads_ray.corpus.row_text import loads
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.features import configured_objective
from mads_ray.hashing import checksum_of_words
from mads_ray.ledger import Counts
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, CapturedStates
from mads_ray.stored.arrays import read_npy
from mads_ray.stored.damaged import damaged
from mads_ray.stored.files import KnownFile
from mads_ray.stored.layout import wrong_uids
from mads_ray.stored.records import read_kept, record_of
from mads_ray.stored.tables import parquet_rows, read_table
from mads_ray.submodular.objective import Objective

_GROUPS = ("clustering", "selection")  # with the seed and the format, what a core set depends on

_SELECT_AGAIN = (
    "remove it and run the command that selected again: it selects again from the stored states"
)
SELECT_AGAIN = "run the command that selected again, with the same --output: it makes it anew"


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


@dataclass(frozen=True, slots=True)
class _Summary:
    """What must be in run.json, which holds more."""

    finished: str
    config: dict[str, Any]
    states_from: str
    states_checksum: str
    counts: Counts
    metrics: dict[str, Any]
    timings: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Made:
    made: dict[str, KnownFile]


def read_selection(path: Path, shard: CapturedShard, columns: Sequence[str]) -> pa.Table:
    """The uids and some columns of a shard's file in selection/, in the order of its states.

    Raises DamagedFileError where the file is torn, or holds other rows than the states.
    """
    table = read_table(path, SELECT_AGAIN, ["uid", *columns])
    wrong = wrong_uids(table, shard.rows, shard.checksum)
    if wrong is not None:
        raise damaged(path, wrong, SELECT_AGAIN)
    return table


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
        """The run that is finished in a folder, if there is one.

        Raises DamagedFileError where its run.json is torn or foreign.
        """
        summary = read_kept(folder.run_json, dict, _SELECT_AGAIN)
        if summary is None:
            return None
        names = {f.name for f in fields(_Summary)}
        known = {name: value for name, value in summary.items() if name in names}
        found = record_of(folder.run_json, _Summary, known, _SELECT_AGAIN)
        if type(found.config.get("selection")) is not dict:
            raise damaged(folder.run_json, "has no settings of a selection", _SELECT_AGAIN)
        return cls(folder, summary)

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
        sketch_dim = self.states.manifest.sketch_dim
        return ClusterTree.load(self.folder.selection_tree, sketch_dim, SELECT_AGAIN)

    @property
    def target_counts_D(self) -> I32 | None:
        """How many target examples have each feature; None without a target."""
        return self._counts(self.folder.target_counts)

    def _counts(self, path: Path) -> I32 | None:
        manifest = self.states.manifest
        features = manifest.layers * manifest.width + self.tree.nodes
        if not path.exists():
            return None
        counts_D: I32 = read_npy(path, SELECT_AGAIN, "i", (features,))
        return counts_D

    @cached_property
    def objective(self) -> Objective:
        """The objective that it selected by."""
        pool_D = self._counts(self.folder.pool_counts)
        counts = self.target_counts_D, None if pool_D is None else pool_D.astype(np.int64)
        return configured_objective(self.config.selection, self.states.manifest, self.tree, *counts)

    def require_picks(self, words_K2: U64) -> None:
        """Raise DamagedFileError unless these uids, as their halves, are those it selected."""
        wanted = self.summary["counts"]["selected"]
        found = checksum_of_words(words_K2)
        if (len(words_K2), found) != (wanted, self.summary.get("selected_checksum", found)):
            wrong = (
                f"names {len(words_K2)} rows with checksum {found}, but the run selected {wanted} "
                f"with {self.summary.get('selected_checksum', 'any')}"
            )
            raise damaged(self.folder.selection, wrong, SELECT_AGAIN)

    def lacks(self) -> list[str]:
        """Names of its files that are gone, torn or changed; the report is not among them.

        Of older runs, which did not note their files, core set parts need only be there.
        """
        folder, made = self.folder, self.summary.get("made")
        if made is None:
            parts = list(folder.core_set.glob("part-*"))
            found = [] if any(p.stat().st_size for p in parts) else ["core_set/part-00000"]
            found += [] if folder.selection_tree.exists() else ["selection/cluster_tree.npz"]
        else:
            known = record_of(folder.run_json, _Made, {"made": made}, _SELECT_AGAIN).made
            found = [name for name, file in known.items() if not file.fits(folder.root / name)]
        for shard in self.states.shards:
            path = folder.selection_file(shard.shard)
            if parquet_rows(path) != shard.rows:
                found.append(path.relative_to(folder.root).as_posix())
        return found

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
