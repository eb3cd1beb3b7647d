"""A whole run at scale with a stand-in for the model: seconds, bytes and memory of every stage.

Everything is real but the model: a synthetic corpus is written, read by `ingest`, "captured"
through Ray Data by a stand-in that makes states of a small model's shape from the uids of each
canonical shard, and then counted, clustered, selected, written and reported by `mads_ray.select`.

  python benchmarks/scale.py [--rows 10000000] [--store scale_10m]

takes about 40 minutes on two cores and 25 GB of TMPDIR for 10^7 rows. The last line of the output
is JSON:

- `stages`: of each stage `seconds`, `read_gb` and `written_gb` (what the processes asked the system
  for, `rchar` and `wchar`), and by kind of process the largest resident set of one process
  (`rss_mb`) and what it shares with nobody (`uss_mb`).
- `driver_mb`: the driver's resident memory at the end of each stage. `files_gb`: what is left.
- `hours_at_1e9`: each stage's seconds times 10^9 / rows, on one core, in hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from results import store

from mads_ray.capture.calibration import Calibration
from mads_ray.capture.history import discard
from mads_ray.capture.journal import Journal
from mads_ray.config import CorpusConfig, RayConfig, RunConfig, SelectionConfig
from mads_ray.hashing import checksum
from mads_ray.ledger import CorpusLedger, StateRecord
from mads_ray.pipeline.capture.calibration_from import requested_of
from mads_ray.pipeline.capture.model_tasks import on_models, shard_task
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.ingest import find_input, ingest
from mads_ray.pipeline.run import select
from mads_ray.pipeline.runtime.owner import ended_by_itself, this_process
from mads_ray.pipeline.runtime.progress import Clock
from mads_ray.pipeline.runtime.session import local_cpus, ray_session
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest, fixed_list, states_schema
from mads_ray.storage import write_json, write_parquet
from mads_ray.stored.examples import read_examples

LAYERS, WIDTH, PER_LAYER, SKETCH, KINDS = 6, 512, 16, 32, 400
FILES = 4
GB, MB = 1e9, 1e6
EVERY_S = 2.0


def write_corpus(folder: Path, rows: int) -> int:
    """Unique rows of about 200 bytes, in a few files; returns their bytes."""
    folder.mkdir(parents=True)
    words = [hashlib.blake2b(bytes([i // 256, i % 256])).hexdigest()[:7] for i in range(2000)]
    for file in range(FILES):
        rng = np.random.default_rng(file)
        with (folder / f"rows-{file}.jsonl").open("w", encoding="ascii") as out:
            for start in range(file * rows // FILES, (file + 1) * rows // FILES, 10_000):
                stop = min(start + 10_000, (file + 1) * rows // FILES)
                picks = rng.integers(0, len(words), (stop - start, 18))
                for row, picked in zip(range(start, stop), picks.tolist(), strict=True):
                    asked = " ".join(words[i] for i in picked[:8])
                    told = " ".join(words[i] for i in picked[8:])
                    out.write(f'{{"instruction": "{row} {asked}", "output": "{told}"}}\n')
    return sum(p.stat().st_size for p in folder.iterdir())


def stand_in(
    _capture: Any, manifest: StatesManifest, folder: RunFolder, _cpus: int, _gpus: float
) -> Any:
    """Work as `capturer`'s: states by a row's uid, each near one of some kinds."""
    rng = np.random.default_rng(0)
    kinds_KLF = rng.standard_normal((KINDS, LAYERS, WIDTH), np.float32)
    centres_KS = rng.standard_normal((KINDS, SKETCH), np.float32)
    share_K = 1 / np.arange(1, KINDS + 1) ** 1.1
    until_K = np.cumsum(share_K / share_K.sum())
    schema = states_schema(LAYERS * PER_LAYER, SKETCH, 0)

    def work(item: dict[str, Any]) -> dict[str, Any]:
        shard = item["shard"]
        task = shard_task(folder, shard, manifest.calibration)
        with Journal(folder.open, task.key, this_process(), ended_by_itself) as journal:
            began = time.perf_counter()
            table = read_examples(folder.shard_file(shard), ["uid", "row_id"])
            uids = table.column("uid").to_pylist()
            rng = np.random.default_rng(int(uids[0][:12], 16) if uids else 0)
            kind_N = np.searchsorted(until_K, rng.random(len(uids)))
            neurons = []
            for start in range(0, len(uids), 512):
                of = kind_N[start : start + 512]
                noise = rng.standard_normal((len(of), LAYERS, WIDTH), np.float32)
                top = np.argpartition(-(kinds_KLF[of] + noise), PER_LAYER, axis=2)[..., :PER_LAYER]
                neurons.append(np.sort(top, axis=2).astype(np.uint16).reshape(len(of), -1))
                journal.begin(range(start, start + len(of)))
                journal.end(range(start, start + len(of)))
            sketch = centres_KS[kind_N] + 0.5 * rng.standard_normal((len(uids), SKETCH), np.float32)
            tokens = np.full(len(uids), 60, np.int32)
            neurons_NA = np.concatenate(neurons) if neurons else np.empty((0, 96), np.uint16)
            columns = [table.column("uid"), table.column("row_id"), tokens, np.zeros_like(tokens)]
            columns += [fixed_list(neurons_NA), fixed_list(sketch.astype(np.float16))]
            write_parquet(folder.state_file(shard), pa.Table.from_arrays(columns, schema=schema))
            total = checksum(uids)
            ids, spent = (total, total, manifest.calibration), time.perf_counter() - began
            n_tokens = int(tokens.sum())
            record = StateRecord(shard, len(uids), 0, *ids, n_tokens, n_tokens, 0, round(spent, 3))
            write_json(task.marker, asdict(record))
            discard(folder.open, task.key)
        return {"rows": len(uids)}

    return work


def captured(run: Run, ledger: CorpusLedger) -> None:
    """The capture's stream over every shard, with the stand-in."""
    folder = run.output
    folder.states.mkdir(exist_ok=True)
    means = np.zeros((LAYERS, WIDTH), np.float32)
    projection, centre = (
        np.zeros((LAYERS * WIDTH, SKETCH), np.float32),
        np.zeros(SKETCH, np.float32),
    )
    calibration = Calibration(means, np.ones_like(means), projection, centre, PER_LAYER, 0)
    calibration.save(folder.calibration)
    about = {"engine": "stand-in", "model": "stand-in", "revision": "0", "dtype": "float32"}
    shape = {"layers": LAYERS, "width": WIDTH, "sketch_dim": SKETCH, "hidden_dim": 0}
    manifest = StatesManifest(
        **about,
        **shape,
        neurons_per_layer=PER_LAYER,
        max_tokens=2048,
        calibration=calibration.digest(),
        calibration_tokens=0,
        calibration_padded_tokens=0,
        requested=requested_of(run.config.capture),
    )
    manifest.save(folder.manifest)
    tasks = [shard_task(folder, s.shard, manifest.calibration) for s in ledger.shards]
    for _ in on_models(run, run.config.capture, "capture", tasks, stand_in, manifest):
        pass
    folder.check_states(ledger, manifest.calibration)


class Meter:
    """Looks at this process and all below it, every two seconds."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, Any]] = {}
        self._stage, self._ended = "", threading.Event()
        self._io: dict[tuple[int, float], tuple[int, int]] = {}
        self._peaks: dict[str, dict[str, float]] = defaultdict(dict)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            try:
                name = "driver" if process == here else _kind(process)
                memory, io = process.memory_full_info(), process.io_counters()
            except psutil.Error:
                continue
            self._io[process.pid, process.create_time()] = (io.read_chars, io.write_chars)
            peaks = self._peaks[name]
            for key, value in (("rss_mb", memory.rss), ("uss_mb", memory.uss)):
                peaks[key] = max(peaks.get(key, 0.0), round(value / MB))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        self._look()
        before, started = dict(self._io), time.monotonic()
        self._peaks.clear()
        yield
        self._look()
        done = [(io, before.get(who, (0, 0))) for who, io in self._io.items()]
        self.stages[name] = {
            "seconds": round(time.monotonic() - started, 1),
            "read_gb": round(sum(now[0] - was[0] for now, was in done) / GB, 3),
            "written_gb": round(sum(now[1] - was[1] for now, was in done) / GB, 3),
            "processes": {name: dict(peaks) for name, peaks in sorted(self._peaks.items())},
            "driver_mb": round(psutil.Process().memory_info().rss / MB),
        }
        print(name, json.dumps(self.stages[name]), flush=True)


def _kind(process: psutil.Process) -> str:
    """Ray's own name of a process: raylet, gcs_server, or what a worker does."""
    words = process.cmdline()
    first = words[0] if words else process.name()
    if first.startswith("ray::"):
        return first.removeprefix("ray::").split(".")[0]
    return Path(first).name if "python" not in first else "ray's agents"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--fraction", type=float, default=0.01)
    parser.add_argument("--store")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="scale-"))
    meter = Meter()
    try:
        corpus_bytes = write_corpus(root / "corpus", options.rows)
        config = RunConfig(
            input=(str(root / "corpus"),),
            output=str(root / "run"),
            ray=RayConfig(),
            selection=SelectionConfig(fraction=options.fraction, scratch=str(root)),
        )
        folder = RunFolder(config.output)
        with ray_session(config.ray), folder.claim():
            run = Run(config, folder, Clock())
            with meter.stage("ingest"):
                ledger = ingest(
                    run, CorpusConfig(), find_input(config.input, CorpusConfig(), folder)
                )
            with meter.stage("capture"):
                captured(run, ledger)
        with meter.stage("select"):
            result = select(config)
        used = subprocess.run(
            ["du", "-sb", folder.root], capture_output=True, text=True, check=True
        )
        cores = local_cpus()
        measured = {
            "rows": options.rows,
            "corpus_gb": round(corpus_bytes / GB, 3),
            "selected": result.counts.selected,
            "cores": cores,
            "stages": meter.stages,
            "select_s": result.timings,
            "files_gb": round(int(used.stdout.split()[0]) / GB, 3),
            "hours_at_1e9": {
                name: round(s["seconds"] * cores * 1e9 / options.rows / 3600, 1)
                for name, s in meter.stages.items()
            },
        }
    finally:
        meter.close()
        shutil.rmtree(root, ignore_errors=True)
    if options.store:
        store(options.store, measured)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
