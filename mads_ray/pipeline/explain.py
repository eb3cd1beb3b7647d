"""Why an example is in the core set, or is not: from what a finished run stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mads_ray.arrays import I32
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig
from mads_ray.corpus.conversation import Conversation
from mads_ray.errors import ConfigError
from mads_ray.features import load_rows
from mads_ray.finished_run import load_objective
from mads_ray.pipeline.base_core_set import base_of
from mads_ray.pipeline.runtime.session import ray_session
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.printable import one_line
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, StatesManifest, captured_shards
from mads_ray.storage import read_json
from mads_ray.submodular.objective import UNIT, Objective

_NEAREST = 3
_NEURONS = 8
_SNIPPET = 100


@dataclass(frozen=True, slots=True)
class Neuron:
    """A neuron that the example excites: what it was worth, and how many earlier picks had it."""

    layer: int
    index: int
    worth: float
    before: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A selected example with its share of common neurons."""

    uid: str
    rank: int
    shared: float
    prompt: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """`worth` is f's rise when the example joins the picks before it (all picks, if it was not
    selected): the sum over its neurons, its clusters, and its quality bonus."""

    uid: str
    source: str
    rank: int | None
    near_duplicate_of: str | None
    in_base: bool
    worth: float
    worth_neurons: float
    worth_clusters: float
    new_neurons: int
    last_gain: float
    cluster: int
    cluster_before: int
    neurons: list[Neuron]
    nearest: list[Neighbour]

    def text(self) -> str:
        """A few plain lines."""
        lines = [f"{self.uid}  {one_line(self.source)}"]
        if self.rank is not None:
            lines.append(f"rank {self.rank:,}: it added {self.worth:,.2f} to f")
        elif self.in_base:
            lines.append("not selected again: it is in the base core set")
        elif self.near_duplicate_of is not None:
            lines.append(f"not selected: a near-duplicate of {self.near_duplicate_of}")
        else:
            lines.append(
                f"not selected: it would add {self.worth:,.2f} to f; the last pick added "
                f"{self.last_gain:,.2f}"
            )
        lines.append(
            f"neurons {self.worth_neurons:,.2f} ({self.new_neurons:,} that no earlier pick "
            f"excites), clusters {self.worth_clusters:,.2f}; cluster {self.cluster} had "
            f"{self.cluster_before:,} picks before"
        )
        lines.append("neurons that earned most:")
        lines += [
            f"  layer {n.layer:2d} neuron {n.index:5d}: {n.worth:.3f}, {n.before:,} picks had it"
            for n in self.neurons
        ]
        lines.append("nearest selected examples:")
        lines += [
            f"  {n.shared:4.0%} of its neurons, rank {n.rank:,}, {n.uid}  {one_line(n.prompt)}"
            for n in self.nearest
        ]
        return "\n".join(lines)


def explain(output: str | Path, uid: str) -> Explanation:
    """Raises ConfigError where there is no finished run, or no such example in it."""
    folder = RunFolder(output)
    summary = read_json(folder.run_json)
    if summary is None:
        raise ConfigError(f"{folder.root} holds no finished run (no run.json)")
    config = RunConfig.model_validate(summary["config"])
    source = RunFolder(summary["states_from"])
    manifest = StatesManifest.load(source.manifest)
    records = source.check_states(source.load_ledger(), manifest.calibration)
    shards = captured_shards(source, records)
    tree = ClusterTree.load(folder.selection / "cluster_tree.npz")
    objective = load_objective(config, manifest, tree, folder)
    shard, row = _find(folder, shards, uid)
    rows = load_rows([shard], tree)
    at = int(np.flatnonzero(rows.uids_N2[:, 0] == np.uint64(int(uid[:16], 16)))[0])
    mine = rows.take(np.array([at]))
    with ray_session(config.ray):
        before_D, in_base = objective.empty_counts(), False
        if config.selection.base_core_set is not None:
            base = base_of(config.selection.base_core_set, objective, tree, manifest)
            before_D = base.counts_D
            in_base = bool((base.uids_N2 == mine.uids_N2).all(axis=1).any())
        near: list[Neighbour] = []
        last = (-1, np.inf)
        most = row["rank"]
        calls = (
            (s, folder.selection_file(s.shard), tree, objective, most, mine.neurons_NA[0], uid)
            for s in shards
        )
        for counts_D, shard_last, neighbours in map_tasks(_look, calls):
            before_D = before_D + counts_D
            last = max(last, shard_last)
            near = sorted(near + neighbours, key=lambda n: (-n.shared, n.rank))[:_NEAREST]
    return _explain(uid, row, mine, objective, before_D, in_base, manifest, last[1], near)


def _find(
    folder: RunFolder, shards: Sequence[CapturedShard], uid: str
) -> tuple[CapturedShard, dict[str, Any]]:
    for shard in shards:
        path = folder.selection_file(shard.shard)
        found = pq.read_table(path, filters=pc.field("uid") == uid)
        if found.num_rows:
            return shard, found.to_pylist()[0]
    raise ConfigError(f"{folder.root} has no example {uid!r}; see uid in its selection/ files")


def _look(
    shard: CapturedShard,
    selection: Path,
    tree: ClusterTree,
    objective: Objective,
    before_rank: int | None,
    neurons_A: Any,
    uid: str,
) -> tuple[I32, tuple[int, float], list[Neighbour]]:
    """Of one shard: counts of the picks before a rank, rank and gain of its last, and the picks
    that share most neurons."""
    table = pq.read_table(selection, columns=["uid", "rank", "gain"])
    picked = np.flatnonzero(table.column("rank").is_valid().to_numpy())
    if not len(picked):
        return objective.empty_counts(), (-1, np.inf), []
    rank = table.column("rank").to_numpy()[picked].astype(np.int64)
    gains = table.column("gain").to_numpy()[picked]
    uids = np.array(table.column("uid").to_pylist())[picked]
    rows = load_rows([shard], tree).take(picked)
    earlier = np.flatnonzero(rank < before_rank) if before_rank is not None else None
    has = np.zeros(objective.neurons, bool)
    has[objective.layer_start_A + neurons_A] = True
    shared = has[objective.layer_start_A + rows.neurons_NA.astype(np.int64)].mean(1)
    nearest = [i for i in np.lexsort((rank, -shared)) if uids[i] != uid][:_NEAREST]
    prompts = _prompts(shard, [str(uids[i]) for i in nearest])
    neighbours = [
        Neighbour(str(uids[i]), int(rank[i]), float(shared[i]), prompts[str(uids[i])])
        for i in nearest
    ]
    shard_last = (int(rank.max()), float(gains[rank.argmax()]))
    return objective.counts(rows, earlier), shard_last, neighbours


def _prompts(shard: CapturedShard, uids: list[str]) -> dict[str, str]:
    found = pq.read_table(
        shard.examples, columns=["uid", "messages"], filters=pc.field("uid").isin(uids)
    )
    turns = {r["uid"]: Conversation.from_json(r["messages"]).messages for r in found.to_pylist()}
    return {
        u: next((m.content for m in t if m.role == "user"), "")[:_SNIPPET] for u, t in turns.items()
    }


def _explain(
    uid: str,
    row: dict[str, Any],
    mine: Any,
    objective: Objective,
    before_D: I32,
    in_base: bool,
    manifest: StatesManifest,
    last: float,
    near: list[Neighbour],
) -> Explanation:
    prices_D = objective.prices(before_D)
    features = objective.layer_start_A + mine.neurons_NA[0].astype(np.int64)
    nodes = objective.neurons + mine.paths_NP[0].astype(np.int64)
    worth = prices_D[features] / UNIT
    neurons, clusters = float(worth.sum()), float(prices_D[nodes].sum() / UNIT)
    order = np.lexsort((features, -worth))[:_NEURONS]
    top = [
        Neuron(
            int(features[i] // manifest.width),
            int(features[i] % manifest.width),
            float(worth[i]),
            int(before_D[features[i]]),
        )
        for i in order
    ]
    return Explanation(
        uid=uid,
        source=f"{row['source_file']}:{row['source_row']}",
        rank=row["rank"],
        near_duplicate_of=row["near_duplicate_of"],
        in_base=in_base,
        worth=row["gain"] if row["gain"] is not None else neurons + clusters,
        worth_neurons=neurons,
        worth_clusters=clusters,
        new_neurons=int((before_D[features] == 0).sum()),
        last_gain=last,
        cluster=int(row["cluster"]),
        cluster_before=int(before_D[nodes[-1]]),
        neurons=top,
        nearest=near,
    )
