"""Density at scale: rare kinds of rows in a large pool that repeats itself.

Two synthetic pools (kinds_pool.py) of 10^5 and 10^6 rows: 2,000 kinds of Zipf sizes and three
templates of 15%. Of the small one once exactly (all rows are landmarks, k-means sees all sketches,
lazy greedy all rows), once by the pipeline as large pools are treated: a sample of landmarks,
summaries of shards, exchange. Of the large one by the pipeline, with balance 1 and 0. Kinds that
the first rows of a core set reach, by those of as many random rows: a large pool must not lose rare
kinds.

  python benchmarks/density.py [--store density_kinds]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import numpy.typing as npt
from kinds_pool import KINDS, SMALL, kinds_of, pool
from results import store

from mads_ray import FinishedRun, RunConfig, select
from mads_ray.clustering import landmarks
from mads_ray.clustering.density import BinSums, weights_by_count
from mads_ray.clustering.summaries import SketchSummary
from mads_ray.clustering.tree import build_tree, default_levels, unit_sketches
from mads_ray.config import SelectionConfig
from mads_ray.features import configured_objective, load_rows
from mads_ray.pipeline.runtime.local import local_ray
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates, read_matrix
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.problem import Budget, Problem

SIZES = (1000, 5000, 10_000)
DRAWS = 20

I64 = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=100_000)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/mads_ray-density"))
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    result = kinds(args)
    if args.store:
        store(args.store, result)
    print(json.dumps(result))


def kinds(args: argparse.Namespace) -> dict[str, Any]:
    small, large = (pool(args.cache, n, SMALL) for n in (args.sample, args.rows))
    found: dict[str, Any] = {"benchmark": "density", "kinds": KINDS, "sizes": SIZES}
    found["exact"] = exactly(small)
    with local_ray(num_cpus=3, logging_level=logging.ERROR, object_store_memory=2_000_000_000):
        found["small"] = selected(small, args.cache / "small")
        found["large"] = selected(large, args.cache / "large")
        found["large, balance 0"] = selected(large, args.cache / "large-0", balance=0.0)
    for name in ("small", "large"):
        pairs = zip(found[name]["times_random"], found["exact"]["times_random"], strict=True)
        found[f"{name} by exact"] = [round(a / b, 3) for a, b in pairs]
    return found


def exactly(folder: RunFolder) -> dict[str, Any]:
    """All rows are landmarks, k-means sees all sketches, and lazy greedy all rows."""
    states = CapturedStates.open(folder)
    columns = ["row_id", "n_tokens", "sketch"]
    parts = [s.read(columns) for s in states.shards]
    sketch_NS = np.concatenate([read_matrix(p, "sketch") for p in parts])
    tokens_N, row_N = (
        np.concatenate([p.column(c).to_numpy() for p in parts]) for c in ("n_tokens", "row_id")
    )
    places_M2 = np.stack([np.zeros(len(row_N)), np.arange(len(row_N))], axis=1).astype(np.int32)
    uids_M2 = np.zeros((len(row_N), 2), np.uint64)  # not looked at here
    marks = landmarks.Landmarks(uids_M2, landmarks.directions_of(sketch_NS), places_M2)
    alike_N = marks.count_alike(0, marks.directions_MS)
    weights_C = weights_by_count(len(marks), 1.0)
    weight_N = BinSums.of(alike_N, tokens_N, weights_C).weights(alike_N, tokens_N, weights_C)
    summary = SketchSummary(unit_sketches(sketch_NS), weight_N)
    tree = build_tree(summary, default_levels(len(marks)), 20, 0, unit=True)
    rows = load_rows(states.shards, tree)
    options = SelectionConfig()
    plain = configured_objective(options, states.manifest, tree)
    counts_D = plain.weighted_counts(rows, weight_N)
    objective = configured_objective(options, states.manifest, tree, None, counts_D)
    picks = lazy_greedy(rows, Problem(objective, Budget(rows=max(SIZES)))).picks
    return reached(kinds_of(row_N), picks)


def selected(states: RunFolder, output: Path, balance: float = 1.0) -> dict[str, Any]:
    """As large pools are treated: summaries of shards, and exchange."""
    config = RunConfig(
        output=str(output),
        selection={"size": max(SIZES), "exact_rows": 0, "balance": balance},
        clustering={"exact_rows": 0},
        ray={"selection_workers": 2},
    )
    run = FinishedRun.open(select(config, states.root, overwrite=True).output)
    table = run.result().selection()
    ranks = table.column("rank").to_numpy(zero_copy_only=False)
    order = np.argsort(np.where(np.isnan(ranks), np.inf, ranks), kind="stable")
    told = {
        "landmarks": run.summary["density"]["landmarks"],
        "seconds": run.summary["timings"],
    }
    return reached(kinds_of(table.column("row_id").to_numpy()), order) | told


def reached(kind_N: I64, order: I64) -> dict[str, Any]:
    """Kinds that the first rows of an order reach, and by those of as many random rows."""
    rng = np.random.default_rng(0)
    found, at_random, templates = [], [], []
    for size in SIZES:
        picks = kind_N[order[:size]]
        found.append(len(np.unique(picks[picks >= 0])))
        templates.append(round(float((picks < 0).mean()), 3))
        draws = (rng.choice(kind_N, size, replace=False) for _ in range(DRAWS))
        at_random.append(float(np.mean([len(np.unique(d[d >= 0])) for d in draws])))
    return {
        "rows": len(kind_N),
        "reached": found,
        "random": [round(x, 1) for x in at_random],
        "times_random": [round(a / b, 3) for a, b in zip(found, at_random, strict=True)],
        "template_share": templates,
    }


if __name__ == "__main__":
    main()
