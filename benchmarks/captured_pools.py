"""Captured pools with labels, and what a core set reaches of them.

N rows, A active neurons a row, S sketch length, K picks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import scipy.sparse
import scipy.sparse.linalg

from mads_ray.clustering.tree import unit_sketches
from mads_ray.hashing import uid_words
from mads_ray.states import StatesManifest, read_matrix

sys.path.insert(0, str(Path(__file__).parent))
from results import store

BUDGETS = (0.05, 0.15)
UNWANTED = ("TEMPLATE", "JUNK", "SOURCE")  # labels that begin so are no tasks to be reached

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Figures = dict[str, list[float]]
Reached = list[list[tuple[float, float, float]]]  # by run and budget, see `Pool.reached`


@dataclass(frozen=True, eq=False)
class Pool:
    """States of a run with labels, without its tree.

    `sketches` by name: "stored", the run's; "unit", these at unit length; others of `sketches_of`.
    """

    name: str
    manifest: StatesManifest
    task_N: npt.NDArray[np.str_]
    tokens_N: npt.NDArray[np.int32]
    uids_N2: npt.NDArray[np.uint64]
    neurons_NA: npt.NDArray[np.uint16]
    sketches: dict[str, F32]

    def __len__(self) -> int:
        return len(self.task_N)

    @property
    def sizes(self) -> list[int]:
        """Rows of the budgets."""
        return [int(b * len(self) + 1e-9) for b in BUDGETS]

    @property
    def tasks(self) -> int:
        """How many tasks it has."""
        return len(set(self.task_N[~self.unwanted_N]))

    @property
    def share_unwanted(self) -> float:
        """Of the pool."""
        return round(float(self.unwanted_N.mean()), 3)

    @property
    def unwanted_N(self) -> npt.NDArray[np.bool_]:
        """Rows of templates, junk, or one large source."""
        return np.array([task.startswith(UNWANTED) for task in self.task_N])

    def reached(self, picks_K: I64) -> tuple[float, float, float]:
        """Tasks reached, the share of unwanted rows, mean tokens by the pool's."""
        unwanted_K = self.unwanted_N[picks_K]
        tasks = len(set(self.task_N[picks_K][~unwanted_K]))
        tokens = self.tokens_N[picks_K].mean() / self.tokens_N.mean()
        return tasks, float(unwanted_K.mean()), float(tokens)


def read_pool(run: Path) -> Pool:
    """The states of a run folder, and the labels of its corpus."""
    columns = ["uid", "n_tokens", "neurons", "sketch"]
    states = pq.read_table(sorted((run / "states").glob("part-*.parquet")), columns=columns)
    shards = sorted((run / "corpus").glob("shard-*.parquet"))
    rows = pq.read_table(shards, columns=["uid", "label"]).to_pylist()
    label_of = {r["uid"]: r["label"] or "" for r in rows}
    uids = states.column("uid").to_pylist()
    stored_NS = read_matrix(states, "sketch").astype(np.float32)
    return Pool(
        run.parent.name if run.name == "run" else run.name,
        StatesManifest.load(run / "states" / "manifest.json"),
        np.array([label_of[u] for u in uids]),
        states.column("n_tokens").to_numpy().astype(np.int32),
        np.stack(uid_words(uids), axis=1),
        read_matrix(states, "neurons"),
        {"stored": stored_NS, "unit": unit_sketches(stored_NS)},
    )


def sketches_of(
    neurons_NA: npt.NDArray[np.uint16], width: int, layers: int, sizes: tuple[int, ...]
) -> dict[str, F32]:
    """Sketches made again from neurons, by the truncated SVD of calibration, fitted on the pool.

    Centred projections on the strongest directions, by name: "unit-256" of unit length, "root-256"
    divided by the root of their length, as the stored ones are.
    """
    n, active = neurons_NA.shape
    layer_A = np.repeat(np.arange(layers), active // layers)
    columns = neurons_NA.astype(np.int64) + layer_A * width
    pointers = np.arange(0, n * active + 1, active)
    x_ND = scipy.sparse.csr_matrix(
        (np.ones(n * active), columns.ravel(), pointers), (n, layers * width)
    )
    u_NS, s_S, _ = scipy.sparse.linalg.svds(x_ND, k=max(sizes), rng=np.random.default_rng(0))
    projected_NS = (u_NS * s_S)[:, np.argsort(-s_S)] / np.sqrt(active)
    found = {}
    for size in sizes:
        part_NS = projected_NS[:, :size] - projected_NS[:, :size].mean(0)
        length_N1 = np.maximum(np.linalg.norm(part_NS, axis=1, keepdims=True), 1e-9)
        for name, divisor_N1 in (("unit", length_N1), ("root", np.sqrt(length_N1))):
            found[f"{name}-{size}"] = (part_NS / divisor_N1).astype(np.float32)
    return found


# --- figures of core sets ---


def figures(reached_RB3: Reached) -> Figures:
    """Means over runs R at each budget B of what `Pool.reached` gives, and the standard error."""
    found_RB3 = np.array(reached_RB3)
    mean_B3 = found_RB3.mean(0)
    error_B3 = found_RB3.std(0, ddof=1) / math.sqrt(len(found_RB3))
    return {
        "tasks": mean_B3[:, 0].round(2).tolist(),
        "error": error_B3[:, 0].round(2).tolist(),
        "unwanted": mean_B3[:, 1].round(3).tolist(),
        "tokens": mean_B3[:, 2].round(3).tolist(),
    }


def over_pools(of: dict[str, dict[str, Figures]]) -> dict[str, dict[str, Any]]:
    """By arm: tasks by those of the arm "random", the mean over pools; its standard error over
    runs. `of`: figures of arms, by pool."""
    found = {}
    for name in next(iter(of.values())):
        times_PB, error_PB = (
            np.array([np.divide(arms[name][k], arms["random"]["tasks"]) for arms in of.values()])
            for k in ("tasks", "error")
        )
        error_B = np.sqrt((error_PB**2).sum(0)) / len(error_PB)
        found[name] = {
            "times_random": times_PB.mean(0).round(3).tolist(),
            "error": error_B.round(3).tolist(),
        }
    return found


def measure_pools(
    benchmark: str,
    about: str,
    measured: Callable[[Pool, int], Iterator[tuple[str, Reached]]],
) -> None:
    """The command of a benchmark over pools: its arguments, its table, its result.

    `measured` yields for a pool and so many seeds each arm with what it reached.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--runs", nargs="+", required=True, help="captured folders with labels")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    pools: dict[str, dict[str, Any]] = {}
    for run in args.runs:
        pool = read_pool(Path(run))
        facts = {"rows": len(pool), "tasks": pool.tasks, "unwanted": pool.share_unwanted}
        print(pool.name, facts, flush=True)
        arms: dict[str, Figures] = {}
        for name, found in measured(pool, args.seeds):
            arms[name] = figures(found)
            print(f"  {name:44}", *(f"{k} {v}" for k, v in arms[name].items()), flush=True)
        pools[pool.name] = facts | {"arms": arms}
    means = over_pools({name: p["arms"] for name, p in pools.items()})
    for name, row in means.items():
        print(f"  {name:44} times random {row['times_random']} ± {row['error']}")
    result = {"benchmark": benchmark, "seeds": args.seeds, "budgets": BUDGETS}
    result |= {"pools": pools, "over_pools": means}
    if args.store:
        store(args.store, result)
    print(json.dumps(result))
