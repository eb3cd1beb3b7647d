"""Explain from the files of a finished run why an example is in the core set, or is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mads_ray.arrays import I32
from mads_ray.clustering.tree import ClusterTree
from mads_ray.corpus.conversation import Conversation
from mads_ray.errors import ConfigError
from mads_ray.features import load_rows
from mads_ray.finished_run import SELECT_AGAIN, FinishedRun, read_selection
from mads_ray.pipeline.base_core_set import base_of
from mads_ray.pipeline.runtime.session import ray_session
from mads_ray.pipeline.runtime.tasks import map_tasks
from mads_ray.printable import one_line
from mads_ray.states import CapturedShard
from mads_ray.stored.examples import read_examples
from mads_ray.stored.tables import read_table
from mads_ray.submodular.objective import UNIT, Objective
from mads_ray.submodular.rows import FeatureRows

_NEAREST = 3
_NEURONS = 8
_SNIPPET = 100


@dataclass(frozen=True, slots=True)
class Neuron:
    """A neuron in the example's state: what it adds to f, and how many earlier picks had it."""

    layer: int
    index: int
    worth: float
    before: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A selected example, and the share of the explained example's neurons that it has too."""

    uid: str
    rank: int
    shared: float
    prompt: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one example is in the core set, or is not.

    `worth` is what the example adds to f after the picks before it (after all picks, if it was not
    selected): the sum over its neurons, its clusters, and its quality bonus. `last_gain` is what
    the last pick added. `like`: about how many rows of the pool are like it, itself included;
    None in runs of older versions.
    """

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
    like: int | None
    neurons: list[Neuron]
    nearest: list[Neighbour]

    def text(self) -> str:
        """The explanation in a few lines of plain text."""
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
        if self.like is not None:
            others = self.like - 1
            lines.append(f"{others:,} other {'row is' if others == 1 else 'rows are'} like it")
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
    """Why an example is in the core set, or is not.

    Args:
        output: Folder of a finished run.
        uid: Of an example, as in its core_set/ or selection/ files: 32 hexadecimal digits.

    Returns:
        What the example adds to f, by neurons and clusters, and the selected rows most like it.

    Raises:
        ConfigError: There is no finished run, or no such example in it.
        MismatchError: The states are others than those it selected from.

    Example:
        >>> from mads_ray import FinishedRun, explain
        >>> first = next(FinishedRun.open("runs/mine").result().rows())
        >>> explain("runs/mine", first["_mads"]["uid"]).rank
        0
    """
    run = FinishedRun.open(output)
    shard, row = _find(run, uid)
    rows = load_rows([shard], run.tree)
    at = int(np.flatnonzero(rows.uids_N2[:, 0] == np.uint64(int(uid[:16], 16)))[0])
    mine = rows.take(np.array([at]))
    with ray_session(run.config.ray):
        around = _Around(run.objective.empty_counts())
        if run.base_core_set is not None:
            base = base_of(run.base_core_set, run.objective, run.tree, run.states.manifest)
            around.before_D = base.counts_D
            around.in_base = bool((base.uids_N2 == mine.uids_N2).all(axis=1).any())
        wanted = (row["rank"], mine.neurons_NA[0], uid)
        calls = (
            (s, run.folder.selection_file(s.shard), run.tree, run.objective, wanted)
            for s in run.states.shards
        )
        for of_shard in map_tasks(_look, calls):
            around.add(*of_shard)
    return _explained(run, row, mine, around)


@dataclass(slots=True)
class _Around:
    """What is selected around an example.

    `before_D`: counts of the base and of the picks before it (of all picks, if it is none itself);
    `last`: rank and gain of the last pick; `near`: the picks that share most neurons with it.
    """

    before_D: I32
    in_base: bool = False
    last: tuple[int, float] = (-1, np.inf)
    near: list[Neighbour] = field(default_factory=list)

    def add(self, counts_D: I32, last: tuple[int, float], near: list[Neighbour]) -> None:
        """What one shard holds more."""
        self.before_D = self.before_D + counts_D
        self.last = max(self.last, last)
        self.near = sorted(self.near + near, key=lambda n: (-n.shared, n.rank))[:_NEAREST]


def _find(run: FinishedRun, uid: str) -> tuple[CapturedShard, dict[str, Any]]:
    for shard in run.states.shards:
        path = run.folder.selection_file(shard.shard)
        found = read_table(path, SELECT_AGAIN, filters=pc.field("uid") == uid)
        if found.num_rows:
            return shard, found.to_pylist()[0]
    raise ConfigError(f"{run.folder.root} has no example {uid!r}; see uid in its selection/ files")


def _look(
    shard: CapturedShard,
    selection: Path,
    tree: ClusterTree,
    objective: Objective,
    wanted: tuple[int | None, npt.NDArray[np.uint16], str],
) -> tuple[I32, tuple[int, float], list[Neighbour]]:
    """What one shard tells about an example. `wanted`: its rank, neurons and uid.

    Returns the feature counts of the picks before its rank, (rank, gain) of the shard's last pick,
    and the picks that share most neurons with it.
    """
    before_rank, neurons_A, uid = wanted
    table = read_selection(selection, shard, ["rank", "gain"])
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
    mine = pc.field("uid").isin(uids)
    found = read_examples(shard.examples, ["uid", "messages"], filters=mine)
    turns = {r["uid"]: Conversation.from_json(r["messages"]).messages for r in found.to_pylist()}
    return {
        u: next((m.content for m in t if m.role == "user"), "")[:_SNIPPET] for u, t in turns.items()
    }


def _explained(
    run: FinishedRun, row: dict[str, Any], mine: FeatureRows, around: _Around
) -> Explanation:
    objective, before_D, width = run.objective, around.before_D, run.states.manifest.width
    prices_D = objective.prices(before_D)
    features = objective.layer_start_A + mine.neurons_NA[0].astype(np.int64)
    nodes = objective.neurons + mine.paths_NP[0].astype(np.int64)
    worth = prices_D[features] / UNIT
    neurons, clusters = float(worth.sum()), float(prices_D[nodes].sum() / UNIT)
    order = np.lexsort((features, -worth))[:_NEURONS]
    top = [
        Neuron(
            int(features[i] // width),
            int(features[i] % width),
            float(worth[i]),
            int(before_D[features[i]]),
        )
        for i in order
    ]
    return Explanation(
        uid=row["uid"],
        source=f"{row['source_file']}:{row['source_row']}",
        rank=row["rank"],
        near_duplicate_of=row["near_duplicate_of"],
        in_base=around.in_base,
        worth=row["gain"] if row["gain"] is not None else neurons + clusters,
        worth_neurons=neurons,
        worth_clusters=clusters,
        new_neurons=int((before_D[features] == 0).sum()),
        last_gain=around.last[1],
        cluster=int(row["cluster"]),
        cluster_before=int(before_D[nodes[-1]]),
        like=row.get("like"),
        neurons=top,
        nearest=around.near,
    )
