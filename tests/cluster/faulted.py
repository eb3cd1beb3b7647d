"""One run of the pipeline on a cluster, what is done to it meanwhile, and what that cost."""

import json
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import yaml
from in_process import in_this_process

from mads_ray.capture.engines.batching import token_batches
from mads_ray.capture.history import read_history
from mads_ray.config import RunConfig

REPO = Path(__file__).parents[2]
ADDRESS = "10.77.0.1:6379"
BUDGET = 512  # tokens in a batch: a shard is a dozen batches
PATIENCE_S = 240


@dataclass(frozen=True)
class Cost:
    """A row of the fault table."""

    fault: str
    rows_lost: int
    rows_duplicated: int
    rows_captured_twice: int
    recovery_s: float


def settings(corpus, output, **ray):
    """The configuration of all these runs, as a mapping. One process holds states: faults hit the
    capture."""
    return {
        "input": [str(corpus)],
        "output": str(output),
        "corpus": {"shard_rows": 24},
        "capture": {"calibration_rows": 40, "max_tokens": 256, "batch_tokens": BUDGET},
        "selection": {"fraction": 0.2},
        "ray": {"selection_workers": 1} | ray,
    }


def local(command, config):
    """Run or capture on this machine alone, in this process."""
    with in_this_process():
        command(RunConfig.model_validate(config))


def start_from(prepared, output):
    """A run folder whose corpus is read and whose calibration is fitted, and no more."""
    shutil.copytree(prepared / "corpus", output / "corpus")
    shutil.copytree(prepared / "quarantine", output / "quarantine")
    for part in output.glob("quarantine/part-capture-*"):
        part.unlink()
    (output / "states").mkdir()
    for name in ("manifest.json", "calibration.npz"):
        shutil.copy(prepared / "states" / name, output / "states" / name)
    shutil.copy(prepared / ".mads_ray.lock", output / ".mads_ray.lock")


class FaultedRun:
    """`python jobs/pipeline.py` on the head of a cluster, and its run folder."""

    def __init__(self, cluster, corpus, output, prepared, beside=None, **ray):
        self.cluster, self.output = cluster, output
        beside = beside or output.parent
        output.mkdir(parents=True, exist_ok=True)
        if prepared is not None:
            start_from(prepared, output)
        self.config, self.log = beside / "run.yaml", beside / "run.log"
        self.config.write_text(yaml.safe_dump(settings(corpus, output, **ray)), encoding="utf-8")
        self.process = None
        self.faulted = self.recovered = 0.0
        self._before = {}

    def start(self, **environment):
        """The command; again after an interruption."""
        command = [sys.executable, REPO / "jobs" / "pipeline.py", "--config", self.config]
        with self.log.open("a", encoding="utf-8") as log:
            self.process = self.cluster.run(
                "head", command, log, cwd=REPO, RAY_ADDRESS=ADDRESS, **environment
            )
        return self

    def text(self):
        """What it printed so far."""
        return self.log.read_text(encoding="utf-8")

    def finish(self, code=0):
        """Wait for its end, which must have this exit code."""
        found = self.process.wait(PATIENCE_S)
        assert found == code, f"exit code {found}\n{self.text()}"
        return self

    # --- while it runs ---

    def journals(self):
        """Journal files by name, with their sizes."""
        return {p.name: p.stat().st_size for p in self.output.glob("states/open/*.journal")}

    def until(self, holds, what):
        """Wait for something to become true of the run."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if holds():
                    return
            except FileNotFoundError:  # a file went away between two looks
                pass
            assert self.process.poll() is None, f"ended before {what}\n{self.text()}"
            assert time.monotonic() < deadline, f"waited too long: {what}\n{self.text()}"
            time.sleep(0.1)

    def until_capturing(self, shards=2, batches=2):
        """Several shards are under way, each with a few batches done."""

        def busy():
            keys = {name.split(".")[0] for name in self.journals()}
            histories = [read_history(self.output / "states" / "open", key) for key in keys]
            return sum(len(p.kept) > batches for p in histories) >= shards

        self.until(busy, f"{shards} shards were under way")

    def working(self, node):
        """Processes of a node that capture a shard, by its key."""
        pids = set(self.cluster.pids(node))
        found = {}
        for name in self.journals():
            key, _, owner, *_ = name.split(".")
            if int(owner.rsplit("-", 1)[1]) in pids:
                found[key] = int(owner.rsplit("-", 1)[1])
        return found

    def fault(self):
        """The fault is about to happen: what is under way now must go on."""
        self._before, self.faulted = self.journals(), time.monotonic()

    def until_recovered(self, keys):
        """These pieces of work went on in another process, or are committed."""
        self._until_on(keys, lambda name, size: size > 2000 and name not in self._before)

    def until_going_on(self):
        """All that was under way at the fault goes on, in whatever process."""
        keys = {name.split(".")[0] for name in self._before}
        self._until_on(keys, lambda name, size: size > self._before.get(name, 2000))

    def _until_on(self, keys, grew):
        def on():
            now = self.journals()
            return all(
                (self.output / "states" / f"{key[:10]}.done.json").exists()
                or any(grew(name, size) for name, size in now.items() if name.startswith(key))
                for key in keys
            )

        self.until(on, f"{sorted(keys)} went on")
        self.recovered = time.monotonic()

    # --- at its end ---

    def cost(self, fault, reference, lost_actors, gone=0):
        """Compare with the undisturbed run; `gone` rows are known to be in quarantine instead."""
        summary = json.loads((self.output / "run.json").read_text(encoding="utf-8"))
        wanted, found = uids(reference, "selection"), uids(self.output, "selection")
        states = uids(self.output, "states")
        counts = summary["counts"]
        assert counts["read"] == sum(counts[k] for k in ("quarantined", "duplicates", "examples"))
        doubled = (found - Counter(set(found))) + (states - Counter(set(states)))
        cost = Cost(
            fault,
            max(len(wanted - found), len(wanted - states)) - gone,
            sum(doubled.values()),
            summary["capture"]["repeated_rows"],
            round(self.recovered - self.faulted, 1),
        )
        assert cost.rows_captured_twice <= lost_actors * largest_batch(reference)
        assert not self.journals(), "journals were left behind"
        return cost


def uids(folder, kind):
    """How often each uid is in the files of a kind."""
    found = Counter()
    for part in sorted((folder / kind).glob("part-*.parquet")):
        found.update(pq.read_table(part, columns=["uid"]).column("uid").to_pylist())
    return found


def core_set(folder):
    """Its very bytes."""
    return [p.read_bytes() for p in sorted((folder / "core_set").glob("part-*"))]


def largest_batch(folder):
    """Most rows that one batch of the run can have had, from the lengths of its rows."""
    most = 1
    for part in sorted((folder / "states").glob("part-*.parquet")):
        lengths = pq.read_table(part, columns=["n_tokens"]).column("n_tokens").to_pylist()
        most = max(most, *map(len, token_batches(lengths, BUDGET)))
    return most


def record(costs, path):
    """The fault table."""
    rows = [{field: getattr(cost, field) for field in cost.__dataclass_fields__} for cost in costs]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def alive(pid):
    """Whether a process runs (or is stopped), and is not only waiting to be buried."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
