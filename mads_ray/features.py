"""Make what `submodular` needs, an objective and rows, from stored states and a cluster tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mads_ray.arrays import I32, I64
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import SelectionConfig
from mads_ray.states import CapturedShard, StatesManifest, read_matrix
from mads_ray.stored.tables import words_of
from mads_ray.submodular.objective import FeatureSpace, Objective, make_objective
from mads_ray.submodular.rows import FeatureRows


def configured_objective(
    selection: SelectionConfig,
    manifest: StatesManifest,
    tree: ClusterTree,
    target_counts_D: I32 | None = None,
    pool_counts_D: I64 | None = None,
) -> Objective:
    """The configured objective. Its D features are the neurons of the states and the tree's nodes.

    `target_counts_D` (of the target examples) or `pool_counts_D` (of all examples) weigh the
    features: see `make_objective`.
    """
    space = FeatureSpace(
        manifest.layers, manifest.width, manifest.neurons_per_layer, tree.level_sizes
    )
    return make_objective(
        selection.objective, space, selection.tree_share, target_counts_D, pool_counts_D
    )


def load_rows(shards: Sequence[CapturedShard], tree: ClusterTree) -> FeatureRows:
    """Load the states of some shards, with the tree's nodes of each row, into memory."""
    parts = []
    for shard in shards:
        table = shard.read(["uid", "n_tokens", "neurons", "sketch"])
        leaves, _ = tree.assign(read_matrix(table, "sketch"))
        parts.append(
            FeatureRows(
                words_of(table),
                table.column("n_tokens").to_numpy().astype(np.int32),
                read_matrix(table, "neurons"),
                tree.paths_CP[leaves],
            )
        )
    return FeatureRows.concat(parts)
