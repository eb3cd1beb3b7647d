"""Finished core sets are kept: only the same settings, or the user's word, may replace them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig
from mads_ray.corpus.row_table import table_to_rows
from mads_ray.corpus.row_text import loads
from mads_ray.errors import MismatchError
from mads_ray.features import configured_objective
from mads_ray.ledger import Counts
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest
from mads_ray.storage import read_json
from mads_ray.submodular.objective import Objective

_GROUPS = ("clustering", "selection")  # with the seed and the format, what a core set depends on


def keep_other(config: RunConfig, source: RunFolder, target: RunFolder) -> None:
    """Raise MismatchError where the target holds a finished core set of other settings."""
    summary = read_json(target.run_json)
    found = [] if summary is None else differences(config, source, summary)
    if found:
        raise MismatchError(
            f"{target.root} holds a finished core set of other settings:\n  "
            + "\n  ".join(found)
            + "\nUse another --output, or --overwrite to replace it."
        )


def differences(config: RunConfig, source: RunFolder, summary: dict[str, Any]) -> list[str]:
    """One line for every setting that a finished run (its run.json) has otherwise."""
    wanted = _settings(config) | {"states": str(source.root)}
    try:
        stored = RunConfig.model_validate(summary["config"])
    except ValidationError:
        return ["config: stored by another version of mads_ray"]
    theirs = _settings(stored) | {"states": summary["states_from"]}
    return [
        f"{name}: stored {theirs[name]!r}, wanted {value!r}"
        for name, value in wanted.items()
        if theirs[name] != value
    ]


def _settings(config: RunConfig) -> dict[str, Any]:
    whole = config.model_dump(mode="json")
    settings = {"seed": whole["seed"], "output_format": whole["output_format"]}
    for group in _GROUPS:
        settings |= {f"{group}.{name}": value for name, value in whole[group].items()}
    # Where scratch files were has no part in the result, and a fraction may be the default.
    del settings["selection.scratch"]
    settings["selection.fraction"] = config.selection.effective_fraction
    return settings


def load_objective(
    config: RunConfig, manifest: StatesManifest, tree: ClusterTree, folder: RunFolder
) -> Objective:
    """The objective that a finished run used."""
    stored = [folder.target_counts, folder.pool_counts]
    counts = [np.load(f, allow_pickle=False) if f.exists() else None for f in stored]
    return configured_objective(config, manifest, tree, *counts)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run made. Paths are absolute; `metrics` and `timings` (seconds) as in run.json."""

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
        """uid, row_id, source_file, source_row, rank, gain, cluster, n_tokens, copies."""
        return pq.read_table(sorted((self.output / "selection").glob("part-*.parquet")))
