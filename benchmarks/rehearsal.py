"""Scale rehearsal: the capture's orchestration with 1 to 100 logical workers on one machine.

A stand-in takes the place of the model, here and nowhere else. Everything around it is the real
thing: the capture's `stream` brings shards to the actors of Ray Data, each keeps a `Journal` of
every batch, then a states file of SmolLM2's size and a commit marker in a `RunFolder`, and
`check_states` compares them with the ledger. A worker sleeps as long as a model at `--rows-per-s`
would take (give or take 20%, by a hash of the shard's number), so that 100 of them fit two cores.
Each number of workers gets the same work a worker, in a driver and a Ray of its own; the last run
has the most workers and a tenth of the rows.

  python benchmarks/rehearsal.py --workers 1 8 32 100 --rows 1000000 --store rehearsal

takes about ten minutes and 4 GB of TMPDIR, and should have the machine to itself. The last line of
the output is JSON. Of each run:

- `efficiency`: the model seconds that a worker got through in a second of its own, over the same
  for the first run, while all workers are at work (`window_s`: from when each has finished a shard
  until one finds no more). Seconds instead of rows, so that a few longer shards are no loss;
  `rows_per_s` is of the same window. `whole_rows_per_s` is with start-up (`start_s`: until the last
  worker has begun) and tail (`tail_s`: from the window's end).
- `overhead_us_per_row`: time between the shards of a worker. `write_s`: to write all of one shard;
  `late_s`: what its sleeps took too long (no core was free).
- `driver_mb`: resident memory before the pool and after 25, 50, 75 and 100% of the rows.
  `worker_mb`: resident in the largest, `worker_own_mb`: less what processes share.
  `store_peak_mb`: in Ray's object store.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import psutil
import pyarrow as pa
import ray
from results import store

from mads_ray.capture.history import discard, read_history
from mads_ray.capture.journal import Journal
from mads_ray.config import RayConfig
from mads_ray.hashing import checksum, row_ids
from mads_ray.ledger import CorpusLedger, ShardRecord, StateRecord
from mads_ray.pipeline.capture.model_tasks import shard_task
from mads_ray.pipeline.runtime.data_stream import stream
from mads_ray.pipeline.runtime.local import local_ray
from mads_ray.pipeline.runtime.owner import ended_by_itself, this_process
from mads_ray.pipeline.runtime.session import pool_shape
from mads_ray.pipeline.runtime.tasks import Item, Work
from mads_ray.pipeline.runtime.watch import Traces
from mads_ray.run_folder import RunFolder
from mads_ray.states import fixed_list, states_schema
from mads_ray.storage import read_json, write_json, write_parquet

LAYERS, WIDTH, PER_LAYER, SKETCH = 30, 1536, 64, 128
JITTER = 0.2
BATCH = 64  # rows
CALIBRATION = "standin"
MB = 1e6


def uids_of(shard: int, rows: int) -> list[str]:
    """Different for all rows of all shards."""
    return [f"{shard:016x}{row:016x}" for row in range(rows)]


def model_seconds(shard: int, rows: int, rows_per_s: float) -> float:
    """How long a worker sleeps over a shard."""
    share = int(hashlib.sha256(str(shard).encode()).hexdigest()[:8], 16) / 2**32
    return rows / rows_per_s * (1 + JITTER * (2 * share - 1))


def stand_in(folder: RunFolder, rows_per_shard: int, rows_per_s: float) -> Work:
    """Work as that of `capture_workers.capturer`, with naps for a model and one set of states."""
    rng = np.random.default_rng(0)
    shape = (rows_per_shard, LAYERS, PER_LAYER)
    neurons = np.sort(rng.integers(0, WIDTH, shape, np.uint16), axis=2).reshape(rows_per_shard, -1)
    sketch = rng.standard_normal((rows_per_shard, SKETCH), np.float32).astype(np.float16)
    packed = np.concatenate([neurons.view(np.int16), sketch.view(np.int16)], axis=1)
    columns = [np.full(rows_per_shard, 200, np.int32), np.zeros(rows_per_shard, np.int32)]
    columns += [fixed_list(neurons), fixed_list(sketch)]
    schema = states_schema(LAYERS * PER_LAYER, SKETCH, 0)

    def work(item: Item) -> Item:
        began, slept = time.monotonic(), 0.0
        shard, rows = item["shard"], item["rows"]
        planned = model_seconds(shard, rows, rows_per_s)
        key = shard_task(folder, shard, CALIBRATION).key
        with Journal(folder.open, key, this_process(), ended_by_itself) as journal:
            for start in range(0, rows, BATCH):
                batch = range(start, min(start + BATCH, rows))
                journal.begin(batch)
                before = time.monotonic()
                time.sleep(planned * len(batch) / rows)
                slept += time.monotonic() - before
                journal.keep(batch, packed[batch.start : batch.stop])
                journal.end(batch)
        uids = uids_of(shard, rows)
        arrays = [pa.array(uids), pa.array(row_ids(uids)), *(c[:rows] for c in columns)]
        write_parquet(folder.state_file(shard), pa.Table.from_arrays(arrays, schema=schema))
        pa.default_memory_pool().release_unused()  # 100 workers would keep 6 GB of buffers
        total = checksum(uids)
        history = read_history(folder.open, key)
        ids, tokens = (total, total, CALIBRATION), 200 * rows
        record = StateRecord(shard, len(history.kept), 0, *ids, tokens, tokens, 0, round(slept, 3))
        write_json(folder.state_marker(shard), asdict(record))
        discard(folder.open, key)
        memory = psutil.Process().memory_full_info()
        facts = {"rows": rows, "worker": os.getpid(), "rss": memory.rss, "uss": memory.uss}
        times = {"began": began, "planned": planned, "slept": slept, "ended": time.monotonic()}
        return facts | times

    return work


def sample(peaks: dict[str, float], done: threading.Event) -> None:
    """Peak bytes resident in this process and in Ray's object store, looked at once a second."""
    room = ray.cluster_resources()["object_store_memory"]
    while not done.wait(1.0):
        used = room - ray.available_resources().get("object_store_memory", room)
        for name, now in (("rss", resident()), ("store", used)):
            peaks[name] = max(peaks[name], now)


def resident() -> float:
    return float(psutil.Process().memory_info().rss)


def rehearse(workers: int, rows: int, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """One run in this process: a ledger of `rows` rows, every shard captured."""
    folder = RunFolder(root)
    ledger = make_ledger(rows, options.shard_rows)
    folder.save_ledger(ledger, {"benchmark": "rehearsal"})
    items = [{"shard": s.shard, "rows": s.rows} for s in ledger.shards]
    memory, rows_done, facts = [resident()], 0, []
    peaks, done = {"rss": 0.0, "store": 0.0}, threading.Event()
    sampler = threading.Thread(target=sample, args=(peaks, done), daemon=True)
    sampler.start()
    cpu, started = time.process_time(), time.monotonic()
    args = (folder, options.shard_rows, options.rows_per_s)
    for fact in capture_stream(folder, items, args, workers):
        facts.append(fact)
        rows_done += fact["rows"]
        while rows_done >= len(memory) * rows / 4:
            memory.append(resident())
    wall, cpu = time.monotonic() - started, time.process_time() - cpu
    done.set()
    sampler.join()
    records = folder.check_states(ledger, CALIBRATION)
    assert sum(r.captured for r in records) == rows
    return {
        "workers": workers,
        "rows": rows,
        "shards": len(items),
        "whole_rows_per_s": round(rows / wall, 1),
        "wall_s": round(wall, 1),
        **timeline(facts, workers, started),
        "driver_mb": [round(m / MB) for m in memory],
        "driver_peak_mb": round(max(peaks["rss"], *memory) / MB),
        "driver_cpu_us_per_row": round(cpu / rows * 1e6, 1),
        "worker_mb": round(max(f["rss"] for f in facts) / MB),
        "worker_own_mb": round(max(f["uss"] for f in facts) / MB),
        "store_peak_mb": round(peaks["store"] / MB, 2),
    }


def capture_stream(
    folder: RunFolder, items: list[Item], args: tuple[Any, ...], workers: int
) -> Iterator[Item]:
    """As `pipeline.capture.model_tasks.on_models` makes it."""
    config = RayConfig(workers=workers)
    shape = pool_shape(config, len(items))

    def committed(item: Item) -> Item | None:
        return read_json(folder.state_marker(item["shard"]))

    traces = Traces(committed, folder.open, config.hang_s)
    return stream("rehearsal", items, stand_in, args, shape, traces)


def make_ledger(rows: int, shard_rows: int) -> CorpusLedger:
    sizes = [min(shard_rows, rows - start) for start in range(0, rows, shard_rows)]
    shards = [ShardRecord(i, n, 0, checksum(uids_of(i, n))) for i, n in enumerate(sizes)]
    return CorpusLedger(rows, 0, 0, rows, tuple(shards))


def timeline(facts: list[Item], workers: int, started: float) -> dict[str, Any]:
    """What the workers' own clocks (one machine, one clock) say of a run.

    `model_share` is the basis of `efficiency`; None where never all workers were at work.
    """
    mine = defaultdict(list)
    for fact in sorted(facts, key=lambda f: f["began"]):
        mine[fact["worker"]].append(fact)
    start = max(fs[0]["began"] for fs in mine.values())
    low = max(fs[0]["ended"] for fs in mine.values())
    high = min(fs[-1]["ended"] for fs in mine.values())
    end = max(f["ended"] for f in facts)
    full = len(mine) == workers and high > low
    window, seconds, rows = workers * (high - low), 0.0, 0.0
    for f in facts:
        inside = min(f["ended"], high) - max(f["began"], low)
        share = max(0.0, inside) / (f["ended"] - f["began"])
        seconds, rows = seconds + share * f["planned"], rows + share * f["rows"]
    gaps = [b["began"] - a["ended"] for fs in mine.values() for a, b in pairwise(fs)]
    after_first = sum(f["rows"] for fs in mine.values() for f in fs[1:])
    return {
        "workers_seen": len(mine),
        "start_s": round(start - started, 1),
        "tail_s": round(end - high, 1),
        "window_s": round(max(0.0, high - low), 1),
        "rows_per_s": round(rows * workers / window, 1) if full else None,
        "model_share": round(seconds / window, 4) if full else None,
        "overhead_us_per_row": round(sum(gaps) / after_first * 1e6, 1) if gaps else None,
        "write_s": round(mean(f["ended"] - f["began"] - f["slept"] for f in facts), 3),
        "late_s": round(mean(f["slept"] - f["planned"] for f in facts), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32, 100])
    parser.add_argument("--rows", type=int, default=1_000_000, help="for the most workers")
    parser.add_argument("--shard-rows", type=int, default=1024)
    parser.add_argument("--rows-per-s", type=float, default=100.0, help="of one worker")
    parser.add_argument("--store")
    parser.add_argument("--run", type=int, nargs=2, help=argparse.SUPPRESS)  # workers, rows
    options = parser.parse_args()
    if options.run:
        workers, rows = options.run
        with (
            tempfile.TemporaryDirectory() as root,
            local_ray(
                num_cpus=workers + 1,
                logging_level=logging.ERROR,
                object_store_memory=500_000_000,
            ),
        ):
            result = rehearse(workers, rows, options, Path(root) / "run")
        print(json.dumps(result))
        return
    most = max(options.workers)
    plan = [(w, max(1, options.rows * w // most)) for w in options.workers]
    runs = []
    for workers, rows in [*plan, (most, max(1, options.rows // 10))]:
        command = [sys.executable, *sys.argv, "--run", str(workers), str(rows)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(done.stdout.splitlines()[-1], file=sys.stderr, flush=True)
    *scaled, tenth = runs
    base = scaled[0]["model_share"]
    for run in scaled:
        share = run["model_share"]
        run["efficiency"] = round(share / base, 4) if share and base else None
    bends = [r["workers"] for r in scaled if r["efficiency"] and r["efficiency"] < 0.95]
    result = {
        "shard_rows": options.shard_rows,
        "rows_per_s_of_a_worker": options.rows_per_s,
        "runs": scaled,
        "tenth_of_the_rows": tenth,
        "bends_at": bends[0] if bends else None,
    }
    if options.store:
        store(options.store, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
