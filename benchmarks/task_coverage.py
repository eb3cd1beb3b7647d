"""How many tasks a core set reaches, against random and k-means on hidden states.

The label is never shown to the selection. Random: mean and std of 20 draws. k-means: scikit-learn
on the L2-normalised mean last hidden state (what peers cluster), rows taken round robin over the
clusters in random order; the better of C = number of tasks and C = budget, mean of 3 seeds.

  python benchmarks/task_coverage.py --input FILE... --label FIELD [--rows N] [--budget F]

The last line of the output is JSON. With --work DIR the captured states are kept and used again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.cluster import KMeans

from mads_ray import (
    CaptureConfig,
    CorpusConfig,
    RunConfig,
    SelectionConfig,
    capture_states,
    select,
)
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.states import read_matrix

sys.path.insert(0, str(Path(__file__).parent))
from results import store

RANDOM_DRAWS = 20
KMEANS_SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--label", required=True, help="field that names a row's task")
    parser.add_argument("--rows", type=int, help="use a random sample of so many rows")
    parser.add_argument("--budget", type=float, default=0.15, help="fraction of the examples")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tree-share", type=float, default=SelectionConfig().tree_share)
    parser.add_argument("--work", help="folder that keeps the states for another budget")
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(args.work or scratch).absolute()
        work.mkdir(parents=True, exist_ok=True)
        result = measure(args, work)
    result["seconds"] = round(time.time() - started, 1)
    for key, value in result.items():
        print(f"  {key:20} {value}")
    if args.store:
        store(args.store, result)
    print(json.dumps(result))


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    inputs = tuple(args.input)
    if args.rows is not None:
        inputs = (str(sample(args.input, args.rows, args.seed, work)),)
    config = RunConfig(
        input=inputs,
        output=str(work / "run"),
        seed=args.seed,
        corpus=CorpusConfig(label_field=args.label),
        capture=CaptureConfig(model=args.model, store_hidden=True),
        selection=SelectionConfig(fraction=args.budget, tree_share=args.tree_share),
    )
    capture_states(config)
    run = select(config, overwrite=True)
    labels = read_labels(work / "run")
    selection = run.selection()
    uids = selection.column("uid").to_pylist()
    if not any(labels.values()):
        raise SystemExit(f"no row has a field {args.label!r} with a text or a number in it")
    task_N = np.array([labels[u] or "" for u in uids])
    picked_N = np.array([r is not None for r in selection.column("rank").to_pylist()])
    tokens_N = selection.column("n_tokens").to_numpy()
    budget = int(picked_N.sum())
    rng = np.random.default_rng(args.seed)
    draws = [
        len(set(task_N[rng.choice(len(uids), budget, replace=False)])) for _ in range(RANDOM_DRAWS)
    ]
    hidden_NH = read_hidden(work / "run", uids)
    return {
        "benchmark": "task_coverage",
        "input": [Path(p).name for p in args.input],
        "model": args.model,
        "rows": len(uids),
        "budget": args.budget,
        "selected": budget,
        "labels": len(set(task_N)),
        "tasks": len(set(task_N[picked_N])),
        "tasks_random_mean": round(float(np.mean(draws)), 2),
        "tasks_random_std": round(float(np.std(draws, ddof=1)), 2),
        "tasks_kmeans": kmeans_round_robin(hidden_NH, task_N, budget),
        "mean_tokens": round(float(tokens_N[picked_N].mean()), 1),
        "mean_tokens_pool": round(float(tokens_N.mean()), 1),
        "certified_ratio": round(run.metrics["certified_ratio"], 4),
        "tree_share": args.tree_share,
    }


def sample(patterns: list[str], rows: int, seed: int, work: Path) -> Path:
    """A seeded sample of raw rows, in file order."""
    raws = [row.raw for f in discover(patterns).files for row in read_rows(f) if row.error is None]
    keep = np.random.default_rng(seed).choice(len(raws), min(rows, len(raws)), replace=False)
    target = work / f"sample-{rows}-{seed}.jsonl"
    text = "\n".join(raws[i] for i in sorted(keep)) + "\n"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
    return target


def read_labels(work: Path) -> dict[str, str | None]:
    table = pq.read_table(
        sorted((work / "corpus").glob("shard-*.parquet")), columns=["uid", "label"]
    )
    return dict(zip(*(table.column(c).to_pylist() for c in ("uid", "label")), strict=True))


def read_hidden(work: Path, uids: list[str]) -> np.ndarray:
    table = pq.read_table(
        sorted((work / "states").glob("part-*.parquet")), columns=["uid", "hidden"]
    )
    at = {u: i for i, u in enumerate(table.column("uid").to_pylist())}
    return read_matrix(table, "hidden")[[at[u] for u in uids]].astype(np.float32)


def kmeans_round_robin(hidden_NH: np.ndarray, task_N: np.ndarray, budget: int) -> float:
    unit = hidden_NH - hidden_NH.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    means = []
    for clusters in (len(set(task_N)), budget):
        reached = []
        for seed in range(KMEANS_SEEDS):
            rng = np.random.default_rng(seed)
            label_N = KMeans(clusters, n_init=1, random_state=seed).fit_predict(unit)
            queues = [list(rng.permutation(np.flatnonzero(label_N == c))) for c in range(clusters)]
            picks: list[int] = []
            while len(picks) < budget:
                picks += [q.pop() for q in queues if q][: budget - len(picks)]
            reached.append(len(set(task_N[picks])))
        means.append(float(np.mean(reached)))
    return round(max(means), 2)


if __name__ == "__main__":
    main()
