"""Clustering of sketches at scale: time to the cluster tree, and rows/s of the assignment pass.

  python benchmarks/clustering.py --rows 1000000 --shards 245 [--store clustering_1e6]

The last line of the output is JSON. `inertia_ratio` compares the mean squared distance to the leaf
with that of k-means on a sample of the same sketches with as many leaves.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time

import numpy as np
import ray
from results import store
from selection import arguments, states

from mads_ray.clustering.summaries import SketchSummary, weighted_kmeans
from mads_ray.clustering.tree import default_levels
from mads_ray.config import ClusteringConfig
from mads_ray.pipeline.cluster import cluster_shards
from mads_ray.pipeline.runtime.local import local_ray
from mads_ray.states import read_matrix

SAMPLE = 65_536


def main() -> None:
    options = arguments()
    with local_ray(
        num_cpus=options.workers,
        logging_level=logging.ERROR,
        object_store_memory=options.object_store,
    ):
        run(options)


def run(options: argparse.Namespace) -> None:
    shards = states(options).shards
    ray.get([ray.remote(_warm).remote() for _ in range(options.workers)])
    started = time.monotonic()
    settings = ClusteringConfig()
    whole, levels = options.rows <= settings.exact_rows, default_levels(options.rows)
    tree = cluster_shards(shards, whole, settings, levels, options.seed)
    seconds = time.monotonic() - started
    rates, squares, seen, sample = [], 0.0, 0, []
    for shard in shards[:: max(1, len(shards) // 20)]:
        sketches = read_matrix(shard.read(["sketch"]), "sketch")
        started = time.process_time()
        _, distances = tree.assign(sketches)
        rates.append(len(sketches) / (time.process_time() - started))
        squares, seen = squares + float(distances.sum()), seen + len(sketches)
        sample.append(sketches.astype(np.float32))
    points = np.concatenate(sample)[:SAMPLE]
    centroids = weighted_kmeans(
        SketchSummary(points, np.ones(len(points), np.int64)), tree.level_sizes[-1], 20, 0, 1
    )
    nearest = (
        (points**2).sum(1) + ((centroids**2).sum(1) - 2 * points @ centroids.T).min(1)
    ).mean()
    result = {
        "data": options.data,
        "rows": options.rows,
        "shards": options.shards,
        "workers": options.workers,
        "levels": list(tree.level_sizes),
        "cluster_s": round(seconds, 1),
        "assign_rows_per_s_per_core": round(statistics.median(rates)),
        "inertia_ratio": round(squares / seen / float(nearest), 4),
    }
    if options.store:
        store(options.store, result)
    print(json.dumps(result))


def _warm() -> None:
    import mads_ray.pipeline.cluster  # noqa: F401


if __name__ == "__main__":
    main()
