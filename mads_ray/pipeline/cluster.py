"""Stage 5: build one cluster tree from the sketches of all shards."""

from __future__ import annotations

import logging

import ray

from mads_ray.clustering.density import PoolDensity
from mads_ray.clustering.summaries import (
    SketchSummary,
    local_centroids,
    merge_levels,
    merge_summaries,
    summarise,
)
from mads_ray.clustering.tree import ClusterTree, build_tree, default_levels, unit_sketches
from mads_ray.config import ClusteringConfig
from mads_ray.errors import DamagedFileError
from mads_ray.ledger import total_checksum
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.runtime.tasks import fetch, remote
from mads_ray.states import CapturedShard, CapturedStates, read_matrix
from mads_ray.storage import write_json
from mads_ray.stored.records import read_marker

log = logging.getLogger(__name__)

_AGAIN = "the tree is made again"


def cluster(
    run: Run, clustering: ClusteringConfig, states: CapturedStates, density: PoolDensity
) -> ClusterTree:
    """Build the cluster tree, or load the one that the output has of these states and settings.

    Rows have the weights of `density`.
    """
    seed, output = run.config.seed, run.output
    levels = clustering.levels or default_levels(states.examples)
    about = {
        "states": total_checksum(states.records),
        "shards": [r.captured for r in states.records],
        "calibration": states.manifest.calibration,
        "clustering": clustering.model_dump(mode="json"),
        "levels": list(levels),
        "seed": seed,
    }
    if not density.flat:
        about["weights"] = density.digest
    if read_marker(output.cluster_tree_of, dict) == about:
        try:
            tree = ClusterTree.load(output.cluster_tree, states.manifest.sketch_dim, _AGAIN)
        except DamagedFileError as e:
            log.warning("cluster: %s", e)
        else:
            log.info("cluster: the tree was made before")
            return tree
    output.cluster_tree_of.unlink(missing_ok=True)
    whole = states.examples <= clustering.exact_rows
    weighing = None if density.flat else density
    tree = cluster_shards(states.shards, whole, clustering, levels, seed, weighing)
    tree.save(output.cluster_tree)
    write_json(output.cluster_tree_of, about)
    return tree


def cluster_shards(
    shards: list[CapturedShard],
    whole: bool,
    clustering: ClusteringConfig,
    levels: tuple[int, ...],
    seed: int,
    density: PoolDensity | None = None,
) -> ClusterTree:
    """Summarise each shard, merge the summaries, and build the cluster tree from the last one.

    Each merge joins `clustering.fan_in` summaries, level by level. Where `whole`, a summary holds
    the sketches themselves, and the tree is the same for any sharding. Rows have the weights of
    `density`, before they are summarised: rare rows must not be lost there. Then sketches count at
    unit length: a long one lies where the pool is unlike its mean, which is the pool's density
    again. Without `density` all rows have 1, and sketches count as they are.
    """
    iterations, fan_in = clustering.iterations, clustering.fan_in
    # One GPU a task where there are any: faiss uses what it finds.
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    summarise_shard = remote(_summarise_shard).options(num_gpus=gpus)
    merge = remote(_merge).options(num_gpus=gpus)
    # Only references here: summaries stay in the object store, the driver gets the finished tree.
    local = local_centroids(len(shards))
    how = (whole, local, iterations, seed, density)
    summaries = [summarise_shard.remote(s, *how) for s in shards]
    for groups in merge_levels(len(summaries), fan_in):
        summaries = [
            merge.remote(whole, fan_in, iterations, seed, *(summaries[i] for i in group))
            for group in groups
        ]
    unit = density is not None
    build = remote(build_tree).options(num_gpus=gpus)
    tree = fetch(build.remote(summaries[0], levels, iterations, seed, unit))
    assert isinstance(tree, ClusterTree)
    return tree


def _summarise_shard(
    shard: CapturedShard,
    whole: bool,
    centroids: int,
    iterations: int,
    seed: int,
    density: PoolDensity | None,
) -> SketchSummary:
    states = shard.read(["sketch", "n_tokens"])
    sketches_NS, weights_N = read_matrix(states, "sketch"), None
    if density is not None:
        weights_N = density.weights(shard.shard, states.column("n_tokens").to_numpy())
        sketches_NS = unit_sketches(sketches_NS)
    return summarise(sketches_NS, weights_N, whole, centroids, iterations, seed)


def _merge(
    whole: bool, fan_in: int, iterations: int, seed: int, *parts: SketchSummary
) -> SketchSummary:
    return merge_summaries(parts, whole, fan_in, iterations, seed)
