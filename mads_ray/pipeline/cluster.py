"""Stage 4: sketches of all shards become one cluster tree."""

from __future__ import annotations

import logging
from pathlib import Path

import ray

from mads_ray.clustering.summaries import (
    SketchSummary,
    local_centroids,
    merge_levels,
    merge_summaries,
    summarise,
)
from mads_ray.clustering.tree import ClusterTree, build_tree, default_levels
from mads_ray.config import RunConfig
from mads_ray.ledger import StateRecord, total_checksum
from mads_ray.pipeline.runtime.tasks import fetch, remote
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, read_matrix, read_states
from mads_ray.storage import read_json, write_json

log = logging.getLogger("mads_ray")


def stored_cluster(
    config: RunConfig, folder: RunFolder, records: list[StateRecord], shards: list[CapturedShard]
) -> ClusterTree:
    """The cluster tree that `folder` has of these very states and settings, or a new one."""
    about = {
        "states": total_checksum(records),
        "shards": [r.captured for r in records],
        "calibration": records[0].calibration,
        "clustering": config.clustering.model_dump(mode="json"),
        "levels": list(
            config.clustering.levels or default_levels(sum(r.captured for r in records))
        ),
        "seed": config.seed,
    }
    tree_file, about_file = folder.clusters / "tree.npz", folder.clusters / "tree.json"
    if read_json(about_file) == about and tree_file.exists():
        log.info("cluster: the tree was made before")
        return ClusterTree.load(tree_file)
    about_file.unlink(missing_ok=True)
    tree = cluster(config, shards, sum(r.captured for r in records))
    tree.save(tree_file)
    write_json(about_file, about)
    return tree


def cluster(config: RunConfig, shards: list[CapturedShard], examples: int) -> ClusterTree:
    """Summaries climb a merge tree of fixed fan-in; the root becomes the cluster tree.

    Up to `clustering.exact_rows` examples the summaries are the sketches themselves, and the tree
    is the same for any sharding.
    """
    whole = examples <= config.clustering.exact_rows
    iterations, seed, fan_in = config.clustering.iterations, config.seed, config.clustering.fan_in
    # One GPU a task where there are any: faiss uses what it finds.
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    summarise_shard = remote(_summarise_shard).options(num_gpus=gpus)
    merge = remote(_merge).options(num_gpus=gpus)
    # Only references here: summaries stay in the object store, the driver gets the finished tree.
    local = local_centroids(len(shards))
    summaries = [summarise_shard.remote(s.states, whole, local, iterations, seed) for s in shards]
    for groups in merge_levels(len(summaries), fan_in):
        summaries = [
            merge.remote(whole, fan_in, iterations, seed, *(summaries[i] for i in group))
            for group in groups
        ]
    levels = config.clustering.levels or default_levels(examples)
    tree = fetch(
        remote(build_tree).options(num_gpus=gpus).remote(summaries[0], levels, iterations, seed)
    )
    assert isinstance(tree, ClusterTree)
    return tree


def _summarise_shard(
    path: Path, whole: bool, centroids: int, iterations: int, seed: int
) -> SketchSummary:
    sketches = read_matrix(read_states(path, ["sketch"]), "sketch")
    return summarise(sketches, whole, centroids, iterations, seed)


def _merge(
    whole: bool, fan_in: int, iterations: int, seed: int, *parts: SketchSummary
) -> SketchSummary:
    return merge_summaries(parts, whole, fan_in, iterations, seed)
