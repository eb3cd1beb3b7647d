"""What the defaults of weights, tree and sketch rest on: tasks reached over captured pools.

For every pool (a run folder with labels, --label-field) and every variant: tasks that lazy greedy's
core set reaches at 5 and 15%, and its mean tokens by the pool's; mean over seeds of k-means and
ties. Sketches other than the stored ones are made again from the stored neurons, by the truncated
SVD that calibration uses, fitted on the pool itself.

  python benchmarks/defaults.py --runs RUN... [--seeds 4] [--store NAME]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import scipy.sparse
import scipy.sparse.linalg

from mads_ray.clustering.summaries import summarise
from mads_ray.clustering.tree import build_tree, default_levels
from mads_ray.hashing import uid_words
from mads_ray.states import StatesManifest, read_matrix
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import FeatureSpace, make_objective
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.rows import FeatureRows

sys.path.insert(0, str(Path(__file__).parent))
from results import store

F32 = npt.NDArray[np.float32]
BUDGETS = (0.05, 0.15)
DRAWS = 200
FORMER = (16, 64, 256)


@dataclass(frozen=True)
class Variant:
    """Weights of neurons, levels of the tree (None: the default ones), its share, the sketch (its
    length and directions), the curve phi."""

    weights: str
    levels: tuple[int, ...] | None
    share: float
    sketch: str
    curve: str = "sqrt"


VARIANTS = (
    Variant("uniform", FORMER, 0.0, "unit-128"),
    Variant("uniform", FORMER, 0.3, "unit-128"),
    Variant("uniform", None, 0.3, "unit-128"),
    Variant("pool", FORMER, 0.0, "unit-128"),
    Variant("pool", FORMER, 2.0, "unit-128"),
    Variant("pool", None, 0.3, "unit-128"),
    Variant("pool", None, 2.0, "unit-128"),
    Variant("pool", None, 2.0, "unit-256"),
    Variant("pool", None, 0.3, "root-256"),
    Variant("pool", None, 1.0, "root-256"),
    Variant("pool", None, 2.0, "root-256"),
    Variant("pool", None, 3.0, "root-256"),
    Variant("pool", None, 2.0, "own-256"),
)


@dataclass(frozen=True)
class Pool:
    """States of a run, without its tree."""

    name: str
    manifest: StatesManifest
    task_N: npt.NDArray[np.str_]
    tokens_N: npt.NDArray[np.int32]
    uids_N2: npt.NDArray[np.uint64]
    neurons_NA: npt.NDArray[np.uint16]
    sketches: dict[str, F32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", nargs="+", required=True, help="captured folders with labels")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "defaults", "seeds": args.seeds, "pools": {}}
    for run in args.runs:
        pool = read_pool(Path(run))
        sizes = [int(b * len(pool.task_N) + 1e-9) for b in BUDGETS]
        found = {
            "rows": len(pool.task_N),
            "tasks": len(set(pool.task_N)),
            "random": [at_random(pool, size) for size in sizes],
            "variants": [],
        }
        result["pools"][pool.name] = found
        print(pool.name, found["rows"], "rows,", found["tasks"], "tasks, random", found["random"])
        for variant in VARIANTS:
            row = measure(pool, variant, sizes, args.seeds)
            found["variants"].append({**variant.__dict__, **row})
            print(f"  {variant}: tasks {row['tasks']} (± {row['std']}), tokens {row['tokens']}")
    if args.store:
        store(args.store, result)
    print(json.dumps(result))


def read_pool(run: Path) -> Pool:
    columns = ["uid", "n_tokens", "neurons"]
    states = pq.read_table(sorted((run / "states").glob("part-*.parquet")), columns=columns)
    shards = sorted((run / "corpus").glob("shard-*.parquet"))
    rows = pq.read_table(shards, columns=["uid", "label"]).to_pylist()
    label_of = {r["uid"]: r["label"] or "" for r in rows}
    uids = states.column("uid").to_pylist()
    manifest = StatesManifest.load(run / "states" / "manifest.json")
    neurons_NA = read_matrix(states, "neurons")
    return Pool(
        run.parent.name if run.name == "run" else run.name,
        manifest,
        np.array([label_of[u] for u in uids]),
        states.column("n_tokens").to_numpy().astype(np.int32),
        np.stack(uid_words(uids), axis=1),
        neurons_NA,
        sketches_of(neurons_NA, manifest),
    )


def sketches_of(
    neurons_NA: npt.NDArray[np.uint16],
    manifest: StatesManifest,
    sizes: tuple[int, ...] = (128, 256),
) -> dict[str, F32]:
    """Centred projections on the strongest directions: of unit, root and own length."""
    n, active = neurons_NA.shape
    layer_A = np.repeat(np.arange(manifest.layers), manifest.neurons_per_layer)
    columns = neurons_NA.astype(np.int64) + layer_A * manifest.width
    shape = (n, manifest.layers * manifest.width)
    pointers = np.arange(0, n * active + 1, active)
    x_ND = scipy.sparse.csr_matrix((np.ones(n * active), columns.ravel(), pointers), shape)
    u_NS, s_S, _ = scipy.sparse.linalg.svds(x_ND, k=max(sizes), rng=np.random.default_rng(0))
    order = np.argsort(-s_S)
    own = (u_NS * s_S)[:, order] / np.sqrt(active)
    found = {}
    for size in sizes:
        part = own[:, :size] - own[:, :size].mean(0)
        length_N1 = np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-9)
        for name, divisor in (("unit", length_N1), ("root", np.sqrt(length_N1)), ("own", 1.0)):
            found[f"{name}-{size}"] = (part / divisor).astype(np.float32)
    return found


def at_random(pool: Pool, size: int) -> float:
    rng = np.random.default_rng(0)
    draws = (rng.choice(len(pool.task_N), size, replace=False) for _ in range(DRAWS))
    return round(float(np.mean([len(set(pool.task_N[d])) for d in draws])), 1)


def measure(pool: Pool, variant: Variant, sizes: list[int], seeds: int) -> dict[str, Any]:
    found = np.array([core_set(pool, variant, sizes, seed) for seed in range(seeds)])
    mean, std = found.mean(0), found.std(0, ddof=1)
    return {
        "tasks": mean[:, 0].round(1).tolist(),
        "std": std[:, 0].round(1).tolist(),
        "tokens": mean[:, 1].round(2).tolist(),
    }


def core_set(
    pool: Pool, variant: Variant, sizes: list[int], seed: int
) -> list[tuple[float, float]]:
    """(tasks, tokens by the pool's) of the prefixes of these sizes."""
    m, n = pool.manifest, len(pool.task_N)
    vectors = pool.sketches[variant.sketch]
    levels = [x for x in variant.levels or default_levels(n) if x <= n // 2]
    tree = build_tree(summarise(vectors, True, 256, 20, seed), levels, 20, seed)
    leaves, _ = tree.assign(vectors)
    rows = FeatureRows(pool.uids_N2, pool.tokens_N, pool.neurons_NA, tree.paths_CP[leaves])
    space = FeatureSpace(m.layers, m.width, m.neurons_per_layer, tree.level_sizes)
    call = (variant.curve, space, variant.share)
    objective = make_objective(*call)
    if variant.weights == "pool":
        shown_D = objective.counts(rows).astype(np.int64)
        objective = make_objective(*call, None, shown_D)
    picks = lazy_greedy(rows, Problem(objective, Budget(rows=max(sizes)), seed=seed)).picks
    mean = pool.tokens_N.mean()
    return [
        (len(set(pool.task_N[picks[:k]])), float(pool.tokens_N[picks[:k]].mean() / mean))
        for k in sizes
    ]


if __name__ == "__main__":
    main()
