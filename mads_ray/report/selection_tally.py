"""Counts and typical rows of one shard. They add up to those of the corpus.

Their size grows with clusters, labels and files, never with rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mads_ray.clustering.survey import Reached
from mads_ray.clustering.tree import ClusterTree
from mads_ray.corpus.conversation import Conversation
from mads_ray.corpus.examples import MAX_LABELS
from mads_ray.hashing import add_checksums, checksum

I32 = npt.NDArray[np.int32]
TYPICAL_ROWS = 3
LENGTH_EDGES = [0, *(round(2 ** (i / 2)) for i in range(6, 27)), 2**31]
_SNIPPET = 240


@dataclass(slots=True)
class SelectionTally:
    """Counts of one or more shards. Fields `*_core` count the selected rows only."""

    rows: int = 0
    selected: int = 0
    checksum: str = "0"  # of the uids of all rows
    selected_checksum: str = "0"
    tokens: int = 0
    tokens_core: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    labels_core: Counter[str] = field(default_factory=Counter)
    labels_are_ids: bool = False
    files: Counter[str] = field(default_factory=Counter)
    files_core: Counter[str] = field(default_factory=Counter)
    lengths: Any = 0
    lengths_core: Any = 0
    nodes: Any = 0
    nodes_core: Any = 0
    reached: Reached | None = None  # by the core set
    typical: dict[int, list[tuple[float, str, dict[str, Any]]]] = field(default_factory=dict)
    # Notes on rows of the core set that are not written as they came.
    notes: list[str] = field(default_factory=list)
    # The parts of the core set, as `stored.files.known_files` tells of them.
    made: dict[str, Any] = field(default_factory=dict)
    # Counts of the core sets of other methods, by method.
    labels_by: dict[str, Counter[str]] = field(default_factory=dict)
    leaves_by: dict[str, set[int]] = field(default_factory=dict)

    def add(self, other: SelectionTally) -> None:
        """Add the counts of other shards. Their order does not matter."""
        for name in ("rows", "selected", "tokens", "tokens_core"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("lengths", "lengths_core", "nodes", "nodes_core"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("labels", "labels_core", "files", "files_core"):
            getattr(self, name).update(getattr(other, name))
        if self.reached is None or other.reached is None:
            self.reached = self.reached or other.reached
        else:
            self.reached = self.reached + other.reached
        for name in ("checksum", "selected_checksum"):
            setattr(self, name, add_checksums([getattr(self, name), getattr(other, name)]))
        if len(self.labels) > MAX_LABELS:
            # A field with so many values is no label: do not let it fill memory.
            self.labels_are_ids = True
        if self.labels_are_ids or other.labels_are_ids:
            self.labels_are_ids, self.labels, self.labels_core = True, Counter(), Counter()
            self.labels_by = {method: Counter() for method in self.labels_by}
        for method, labels in other.labels_by.items():
            self.labels_by.setdefault(method, Counter()).update(labels)
            self.leaves_by.setdefault(method, set()).update(other.leaves_by[method])
        for leaf, rows in other.typical.items():
            self.typical[leaf] = sorted(self.typical.get(leaf, []) + rows)[:TYPICAL_ROWS]


def tally_shard(
    selection: pa.Table,
    examples: pa.Table,
    distances: npt.NDArray[np.float64],
    compared: dict[str, I32],
    tree: ClusterTree,
) -> SelectionTally:
    """Count one shard of N rows.

    `selection`: its rows as in selection/. `examples`: their label and messages. `distances` (N,):
    to the centroid of the row's cluster. `compared`: by method, the row numbers that it selects.
    """
    uids = selection.column("uid").to_pylist()
    files = selection.column("source_file").to_pylist()
    tokens, leaves = (selection.column(c).to_numpy() for c in ("n_tokens", "cluster"))
    taken = selection.column("rank").is_valid().to_numpy()
    labels = examples.column("label").to_pylist()
    messages = examples.column("messages")
    core = [uid for uid, picked in zip(uids, taken, strict=True) if picked]
    tally = SelectionTally(len(uids), len(core), checksum(uids), checksum(core))
    tally.tokens, tally.tokens_core = int(tokens.sum()), int(tokens[taken].sum())
    tally.labels = Counter(x for x in labels if x is not None)
    tally.labels_core = Counter(
        x for x, t in zip(labels, taken, strict=True) if t and x is not None
    )
    tally.files = Counter(files)
    tally.files_core = Counter(x for x, t in zip(files, taken, strict=True) if t)
    tally.lengths = np.histogram(tokens, LENGTH_EDGES)[0]
    tally.lengths_core = np.histogram(tokens[taken], LENGTH_EDGES)[0]
    paths = tree.paths_CP[leaves]
    tally.nodes = np.bincount(paths.ravel(), minlength=tree.nodes)
    tally.nodes_core = np.bincount(paths[taken].ravel(), minlength=tree.nodes)
    for method, index in compared.items():
        tally.labels_by[method] = Counter(x for i in index if (x := labels[i]) is not None)
        tally.leaves_by[method] = set(leaves[index].tolist())
    for leaf in np.unique(leaves):
        members = np.flatnonzero(leaves == leaf)
        nearest = members[np.lexsort((members, distances[members]))][:TYPICAL_ROWS]
        tally.typical[int(leaf)] = [
            (float(distances[i]), uids[i], snippet(messages[int(i)].as_py(), labels[i]))
            for i in nearest
        ]
    return tally


def snippet(messages_json: str, label: str | None) -> dict[str, Any]:
    """The label, and the first words of prompt and response."""
    turns = Conversation.from_json(messages_json).messages
    asked = next((m.content for m in turns if m.role == "user"), "")
    answer = next((m.content for m in reversed(turns) if m.role == "assistant"), "")
    return {"label": label, "prompt": asked[:_SNIPPET], "response": answer[:_SNIPPET]}
