"""Selection at scale on synthetic states: quality, speed, growth and memory in one JSON line.

Exchange over shards on Ray, against centralised lazy greedy of our own (`--reference`: same data,
same process, one thread) and against the plain two-level tree (`--two-level`: shard coverage sets
of twice the fair share, united, selected again). `lift` is (f - random) / (lazy greedy - random).
`cpu_s` counts all processes from loaded shards to the ranked core set, the median of `--repeat`
runs; starting Ray, reading Parquet and clustering are reported apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import psutil
from results import store
from synthetic import write_states

from mads_ray.clustering.tree import ClusterTree, default_levels
from mads_ray.config import RunConfig
from mads_ray.features import load_rows
from mads_ray.hashing import checksum, random_set
from mads_ray.ledger import CorpusLedger, StateRecord
from mads_ray.pipeline.cluster import cluster_shards
from mads_ray.pipeline.runtime.local import local_ray
from mads_ray.pipeline.select.exchange import Exchange
from mads_ray.pipeline.select.ground_set import GroundSet, Settings
from mads_ray.pipeline.select.random_sets import hash_thresholds, random_set_counts
from mads_ray.pipeline.select.rank import exact_order, rank
from mads_ray.pipeline.select.stage import open_workers
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates, StatesManifest
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import UNIT
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.rows import FeatureRows

LAYERS, WIDTH, PER_LAYER = 30, 1536, 64


def main() -> None:
    options = arguments()
    if options.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    with local_ray(
        num_cpus=options.workers + 1,
        logging_level=logging.ERROR,
        object_store_memory=options.object_store,
    ):
        run(options)


def run(options: argparse.Namespace) -> None:
    stored = states(options)
    config = RunConfig(
        output="unused",
        seed=options.seed,
        selection={
            "fraction": options.budget,
            "exact_rows": 0,
            "scratch": options.scratch,
            "tolerance": options.stall,
        },
        ray={"selection_workers": options.workers},
        clustering={"levels": options.levels},
    )
    started = time.monotonic()
    tree = cluster_tree(config, stored, options)
    result: dict[str, Any] = {
        "data": options.data,
        "rows": options.rows,
        "budget": options.budget,
        "shards": options.shards,
        "workers": options.workers,
        "stall": options.stall,
        "cluster_s": round(time.monotonic() - started, 1),
        "cluster_levels": list(tree.level_sizes),
    }
    result |= measure(config, GroundSet(stored, tree), options)
    if options.store:
        store(options.store, result)
    print(json.dumps(result))


def measure(config: RunConfig, ground: GroundSet, options: argparse.Namespace) -> dict[str, Any]:
    size = int(options.budget * options.rows + 1e-9)
    started = time.monotonic()
    with open_workers(Settings.of(config), ground) as workers:
        objective = workers.objective
        loaded = workers.ask("facts")
        load_s = time.monotonic() - started
        problem = Problem(objective, Budget(rows=size), seed=config.seed)
        cpu, wall = [], []
        for _ in range(options.repeat):
            before, started = cpu_seconds(), time.monotonic()
            if options.exact:
                places = np.concatenate(workers.ask("places"))
                ranked, chosen = exact_order(workers, places, problem), None
            else:
                chosen = Exchange(workers, 0, problem, config.selection, problem.start()).run()
                ranked = rank(chosen, options.rows)
            cpu.append(cpu_seconds() - before)
            wall.append(time.monotonic() - started)
        facts = workers.ask("facts")
        cpus_of = [f["cpu_s"] - g["cpu_s"] for f, g in zip(facts, loaded, strict=True)]
        f = int(ranked.gains_K.sum())
        streams = [(config.seed, random_set(d)) for d in range(5)]
        thresholds = hash_thresholds(workers, 0, streams, np.array([size], np.int64), False)
        counts = workers.sum(random_set_counts, streams, thresholds)[:, 0]
        f_random = float(np.mean([objective.value(c) for c in counts]))
        result: dict[str, Any] = {"mode": "exact" if options.exact else "exchange"}
        if chosen is not None:
            bound = certified(chosen)
            result |= {
                "certified_ratio": round(f / bound, 5),
                "lift_at_least": round((f - f_random) / (bound - f_random), 4),
                "rounds": chosen.rounds,
            }
        result |= {
            "f": round(f / UNIT, 1),
            "random_ratio": round(f_random / f, 5),
            "cpu_s": round(statistics.median(cpu), 2),
            "cpu_runs_s": [round(c, 2) for c in cpu],
            "wall_s": round(statistics.median(wall), 2),
            "load_s": round(load_s, 1),
            "worker_cpu_s": [round(c / options.repeat, 2) for c in cpus_of],
            "peak_rss_gb": round(max(peak_of(int(p["pid"])) for p in facts) / 2**30, 3),
            "driver_rss_gb": round(own_peak() / 2**30, 3),
            "task_rss_gb": round(max([0, *task_peaks(facts)]) / 2**30, 3),
            "scratch_gb": round(sum(p["scratch"] for p in facts) / 2**30, 3),
            "bytes_per_worker": int(max(p["memory"] for p in facts)),
            "sha": hashlib.sha256(uids(ground, ranked.places_K2)).hexdigest()[:16],
        }
        marks = ranked.marks_M
        prefix = {int(m): objective.value(c) for m, c in zip(marks, ranked.counts_MD, strict=True)}
    if options.reference:
        result |= reference(ground, objective, options, f, f_random, prefix, result["cpu_s"])
    return result


def uids(ground: GroundSet, places_K2: Any) -> bytes:
    """The uids of the core set in rank order."""
    found = np.empty(len(places_K2), "S32")
    for shard in ground.states.shards:
        mine = np.flatnonzero(places_K2[:, 0] == shard.shard)
        column = shard.read(["uid"]).column("uid").to_numpy()
        found[mine] = column[places_K2[mine, 1]].astype("S32")
    return found.tobytes()


def cluster_tree(
    config: RunConfig, stored: CapturedStates, options: argparse.Namespace
) -> ClusterTree:
    """Clustered once for each set of states; `cluster_s` is short where it was stored."""
    name = "-".join(map(str, options.levels or ("default",)))
    path = stored.folder.states.joinpath(f"tree-{name}.npz")
    if not path.exists():
        levels = config.clustering.levels or default_levels(options.rows)
        whole = options.rows <= config.clustering.exact_rows
        how = (config.clustering, levels, config.seed)
        cluster_shards(stored.shards, whole, *how).save(path)
    return ClusterTree.load(path)


def certified(chosen: Exchange) -> int:
    chosen.appraise(2)
    assert chosen.bound is not None
    return chosen.bound


def reference(
    ground: GroundSet,
    objective: Any,
    options: argparse.Namespace,
    f: int,
    f_random: float,
    prefix: dict[int, int],
    cpu_s: float,
) -> dict[str, Any]:
    """Centralised lazy greedy, and the two-level tree, in this process."""
    size = int(options.budget * options.rows + 1e-9)
    parts = [load_rows([s], ground.tree) for s in ground.states.shards]
    rows = FeatureRows.concat(parts)
    lazy_greedy(rows.take(np.arange(64)), Problem(objective, Budget(rows=4)))  # compile
    before = time.process_time()
    problem = Problem(objective, Budget(rows=size), seed=options.seed)
    exact = lazy_greedy(rows, problem)
    lazy_s = time.process_time() - before
    f_lazy = int(exact.gains.sum())
    found = {
        "lift": round((f - f_random) / (f_lazy - f_random), 4),
        "cpu_s_lazy": round(lazy_s, 2),
        "cpu_ratio": round(cpu_s / lazy_s, 3),
        "same_as_lazy": bool(f == f_lazy),
        "prefix_f_ratio": {
            f"{m / options.rows:.2f}": round(v / int(exact.gains[:m].sum()), 5)
            for m, v in prefix.items()
            if round(m / options.rows, 6) in (0.01, 0.02, 0.05, 0.1)
        },
    }
    if options.two_level:
        before = time.process_time()
        share = -(-2 * size // len(parts))
        sets = [
            p.take(lazy_greedy(p, replace(problem, budget=Budget(rows=share))).picks) for p in parts
        ]
        root = FeatureRows.concat(sets)
        tree_f = int(lazy_greedy(root, problem).gains.sum())
        found["lift_two_level"] = round((tree_f - f_random) / (f_lazy - f_random), 4)
        found["cpu_s_two_level"] = round(time.process_time() - before, 2)
    return found


def states(options: argparse.Namespace) -> CapturedStates:
    """The synthetic states, made once for each (data, rows, shards, seed)."""
    name = f"{options.data}-{options.rows}-{options.shards}-{options.seed}"
    folder = RunFolder(Path(options.cache) / name)
    if not (folder.root / "complete").exists():
        write_states(folder.states, options.data, options.rows, options.shards, options.seed)
        (folder.root / "complete").touch()
    records = []
    for shard in range(options.shards):
        uids = pq.read_table(folder.state_file(shard), columns=["uid"]).column("uid").to_pylist()
        total = checksum(uids)
        records.append(StateRecord(shard, len(uids), 0, total, total, "", 0, 0, 0, 0.0))
    ledger = CorpusLedger(options.rows, 0, 0, options.rows, ())
    return CapturedStates(folder, ledger, manifest(), tuple(records))


def manifest() -> StatesManifest:
    return StatesManifest(
        engine="synthetic",
        model="synthetic",
        revision="",
        dtype="",
        layers=LAYERS,
        width=WIDTH,
        neurons_per_layer=PER_LAYER,
        sketch_dim=128,
        hidden_dim=0,
        max_tokens=2048,
        calibration="",
        calibration_tokens=0,
        calibration_padded_tokens=0,
        requested={},
    )


def cpu_seconds() -> float:
    """CPU time of this process and of Ray's workers so far (not of its daemons)."""
    total = time.process_time()
    for process in ray_processes():
        times = process.cpu_times()
        total += times.user + times.system
    return total


def ray_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def task_peaks(facts: list[dict[str, Any]]) -> list[int]:
    """Peak memory of Ray's processes that are no selection workers."""
    workers = {f["pid"] for f in facts}
    return [peak_of(p.pid) for p in ray_processes() if p.pid not in workers]


def own_peak() -> int:
    return peak_of(os.getpid())


def peak_of(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        line = next((x for x in status if x.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=["zipf", "skewed"], default="zipf")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--budget", type=float, default=0.15)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--levels", type=int, nargs="*", default=None, help="of the cluster tree")
    parser.add_argument("--stall", type=float, default=0.0003, help="as selection.tolerance")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--exact", action="store_true", help="lazy greedy over all, on Ray")
    parser.add_argument("--reference", action="store_true")
    parser.add_argument("--two-level", action="store_true")
    parser.add_argument("--cache", default="/tmp/mads_ray-synthetic")
    parser.add_argument("--scratch", default=None)
    parser.add_argument("--object-store", type=int, default=1_000_000_000)
    parser.add_argument("--store", default=None, help="name under benchmarks/results")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
