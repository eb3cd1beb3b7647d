"""From the files of captured shards to loaded shards, in a worker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mads_ray.arrays import F64, I32, U64
from mads_ray.clustering.tree import ClusterTree
from mads_ray.corpus.forms.fields import lookup
from mads_ray.corpus.row_text import loads
from mads_ray.errors import ConfigError
from mads_ray.hashing import TIES, hash_words, isin_words
from mads_ray.states import CapturedShard, of_captured, read_matrix
from mads_ray.stored.tables import words_of
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.shards import LoadedShard, Scratch


@dataclass(frozen=True, slots=True, eq=False)
class LoadPlan:
    """What workers need to know to load shards.

    `by_cluster`, `by_source`: partitions that have bounds. `files`: all source files in order.
    `taken_N2`: uids that are in a base core set.
    """

    objective: Objective
    tree: ClusterTree
    seed: int
    scratch: str | None
    neurons: str = "neurons"  # or raw_neurons
    by_cluster: bool = False
    by_source: bool = False
    files: tuple[str, ...] = ()
    quality_column: str | None = None
    taken_N2: U64 | None = None


def load_shards(
    shards: Sequence[CapturedShard], plan: LoadPlan
) -> tuple[list[LoadedShard], Objective]:
    """Read states, find their leaves, and move the neurons to a scratch file of this process."""
    scratch = Scratch(plan.scratch)
    loaded = []
    for shard in shards:
        table = shard.read(["uid", "n_tokens", plan.neurons, "sketch"])
        uids_N2 = words_of(table)
        leaves, _ = plan.tree.assign(read_matrix(table, "sketch"))
        neurons_NA = read_matrix(table, plan.neurons)
        ties = hash_words(uids_N2[:, 0], uids_N2[:, 1], plan.seed, TIES)
        rank_N = np.empty(len(ties), np.int64)
        rank_N[np.lexsort((uids_N2[:, 1], uids_N2[:, 0], ties))] = np.arange(len(ties))
        one = LoadedShard(
            shard.shard,
            uids_N2,
            table.column("n_tokens").to_numpy().astype(np.int32),
            plan.tree.paths_CP[leaves],
            np.zeros(len(ties), np.int64),
            _groups(shard, plan, table, leaves),
            rank_N,
            ties,
            scratch,
            scratch.append(neurons_NA),
            neurons_NA.shape[1],
            _quality(shard, plan, table) if plan.quality_column else None,
        )
        if plan.taken_N2 is not None:
            one.depth_N[isin_words(uids_N2, plan.taken_N2)] = -2
        loaded.append(one)
    return loaded, plan.objective


def _groups(shard: CapturedShard, plan: LoadPlan, states: pa.Table, leaves: I32) -> I32:
    """The group of each row in each partition, int32 (N, T): clusters first, then source files."""
    columns, start = [], 0
    if plan.by_cluster:
        columns.append(leaves)
        start = len(plan.tree.paths_CP)
    if plan.by_source:
        number = {name: i for i, name in enumerate(plan.files)}
        files = of_captured(shard, states, "source_file").to_pylist()
        columns.append(start + np.array([number[f] for f in files], np.int32))
    if not columns:
        return np.zeros((len(leaves), 0), np.int32)
    return np.stack(columns, axis=1).astype(np.int32)


def _quality(shard: CapturedShard, plan: LoadPlan, states: pa.Table) -> F64:
    """The quality column of the source rows (N,). Raises ConfigError for what is no number."""
    assert plan.quality_column is not None
    raws = of_captured(shard, states, "raw")
    values = [_number(loads(raw.as_py()), plan.quality_column) for raw in raws]
    bad = next((i for i, v in enumerate(values) if v is None), None)
    if bad is not None:
        file = of_captured(shard, states, "source_file")[bad].as_py()
        row = of_captured(shard, states, "source_row")[bad].as_py()
        raise ConfigError(
            f"{file}, row {row}: --quality-column {plan.quality_column} is not a finite number "
            "there; every example needs one"
        )
    return np.array(values, np.float64)


def _number(row: dict[str, Any], dotted: str) -> float | None:
    value = lookup(row, dotted)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond every float
        return None
