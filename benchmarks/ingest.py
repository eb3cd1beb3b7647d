"""How ingest grows with the corpus: seconds, bytes and memory of 10^5 to 10^7 short rows.

Writes corpora of unique synthetic rows in JSON lines, and reads each by `pipeline.ingest` on a
local Ray of its own, at 4,096 rows a shard. With `--old CHECKOUT` also by another checkout of the
project, in turns. A file of 2 GB is read by one worker and by two, in turns.

  git worktree add CHECKOUT COMMIT
  python benchmarks/ingest.py --work DIR [--old CHECKOUT] [--store ingest]

Bytes are those that the operating system counts for the driver and its workers (rchar and wchar),
seen ten times a second; memory is the largest VmHWM of one of them. The last line of the output is
JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

SHARD_ROWS = 4096
OLD_ROWS = 1_000_000  # what the other checkout reads at most
WORDS = (
    *("alpha", "beta", "gamma", "delta", "question", "answer", "model", "data", "value", "sum"),
    *("list", "tree", "node", "shard", "mean", "count", "sort", "text", "code", "python", "write"),
    *("explain", "why", "how", "the", "of", "to", "and", "in"),
)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--file-bytes", type=float, default=2e9)
    parser.add_argument("--rounds", type=int, default=2, help="of one worker and two")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--old", type=Path, help="another checkout")
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    result = {"growth": growth(args), "one_file": one_file(args)}
    if args.store:
        from results import store

        store(args.store, result)
    print(json.dumps(result))


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """Corpora of more and more rows."""
    sides: dict[str, Path | None] = {"now": None}
    if args.old is not None:
        sides["before"] = args.old
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for rows in args.rows:
        path = corpus(args.work / f"rows-{rows}.jsonl", rows, words=20)
        for name, checkout in sides.items():
            if checkout is None or rows <= OLD_ROWS:
                runs[name].append(run(path, args.work / "out", args.workers, checkout))
                told(f"{rows:,} rows, {name}", runs[name][-1])
        path.unlink()
    first, last = runs["now"][0], runs["now"][-1]
    return {
        **runs,
        "exponents": {name: exponents(of) for name, of in runs.items()},
        "exponent": exponent(first, last),
        "read_over_corpus": last["read_bytes"] / last["corpus_bytes"],
        "largest_process_mb": max(r["largest_mb"] for r in runs["now"]),
    }


def exponents(runs: list[dict[str, Any]]) -> list[float]:
    """From each number of rows to the next."""
    return [exponent(a, b) for a, b in pairwise(runs)]


def exponent(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Of the seconds in the rows: log of the one ratio by log of the other."""
    return round(math.log(b["seconds"] / a["seconds"]) / math.log(b["rows"] / a["rows"]), 3)


def one_file(args: argparse.Namespace) -> dict[str, Any]:
    """One large file, by one worker and by two in turns."""
    path = args.work / "large.jsonl"
    corpus(path, int(args.file_bytes / 1010), words=155)
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for i in range(args.rounds):
        for workers in (1, 2) if i % 2 == 0 else (2, 1):
            runs[workers].append(run(path, args.work / "out", workers))
            told(f"one file, {workers} worker(s)", runs[workers][-1])
    path.unlink()
    seconds = {w: [r["seconds"] for r in of] for w, of in runs.items()}
    return {
        "runs": {str(w): of for w, of in runs.items()},
        "times_faster": statistics.median(seconds[1]) / statistics.median(seconds[2]),
    }


def told(what: str, result: dict[str, Any]) -> None:
    shown = {k: round(v, 1) for k, v in result.items() if isinstance(v, float)}
    print(what, shown, file=sys.stderr, flush=True)


def corpus(path: Path, rows: int, words: int) -> Path:
    """Write rows of about `words` words each, no two of them equal."""
    pick = random.Random(rows)
    with path.open("w", encoding="utf-8") as f:
        for i in range(rows):
            text = pick.choices(WORDS, k=words)
            prompt, answer = " ".join(text[: words // 3]), " ".join(text[words // 3 :])
            row = {"instruction": f"{prompt} {i}?", "output": f"{answer}.", "source": f"s{i % 7}"}
            f.write(json.dumps(row) + "\n")
    return path


def run(path: Path, out: Path, workers: int, checkout: Path | None = None) -> dict[str, Any]:
    """Ingest in a process of its own, by this checkout or another one."""
    shutil.rmtree(out, ignore_errors=True)
    root = checkout or Path(__file__).parents[1]
    command = [sys.executable, __file__, "--child", str(path), str(out), str(workers)]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(out)
    return result


def child(path: str, output: str, workers: str) -> None:
    """Ingest one file and print what it took. Runs with an older package too."""
    from mads_ray.config import CorpusConfig, RunConfig
    from mads_ray.pipeline.current_run import Run
    from mads_ray.pipeline.ingest import find_input, ingest
    from mads_ray.pipeline.runtime.local import local_ray
    from mads_ray.pipeline.runtime.progress import Clock
    from mads_ray.run_folder import RunFolder

    settings: dict[str, Any] = {
        "input": (path,),
        "output": output,
        "corpus": CorpusConfig(shard_rows=SHARD_ROWS),
        "ray": {"workers": int(workers)},
    }
    config = RunConfig(**settings)
    folder = RunFolder(output)
    folder.root.mkdir(parents=True)
    with local_ray(num_cpus=int(workers) + 1, object_store_memory=300_000_000):
        watch = Watch()
        corpus = config.corpus
        start, cpu = time.monotonic(), cpu_seconds()
        found = find_input(config.input, corpus, folder)
        ledger = ingest(Run(config, folder, Clock()), corpus, found)
        seconds, cpu = time.monotonic() - start, cpu_seconds() - cpu
        watch.stop()
    size = Path(path).stat().st_size
    result = {
        "rows": ledger.read,
        "examples": ledger.examples,
        "shards": len(ledger.shards),
        "workers": int(workers),
        "corpus_bytes": size,
        "seconds": seconds,
        "other_cpu_seconds": cpu - sum(watch.cpu.values()),
        "cpu_seconds": sum(watch.cpu.values()),
        "read_bytes": sum(watch.read.values()),
        "written_bytes": sum(watch.written.values()),
        "spool_bytes": watch.spool,
        "largest_mb": max(watch.peak.values()) / 2**10,
        "driver_mb": watch.peak[os.getpid()] / 2**10,
    }
    print(json.dumps(result))


def cpu_seconds() -> float:
    """What all processes of the machine have used."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:4]
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Looks at this process and Ray's workers: bytes read and written, CPU seconds, peak memory."""

    def __init__(self) -> None:
        self.read: dict[int, int] = {}
        self.written: dict[int, int] = {}
        self.cpu: dict[int, float] = {}
        self.peak: dict[int, int] = {}
        self._before: dict[int, tuple[int, int, float]] = {}
        self._spool = 0
        self._ended = threading.Event()
        for pid in self._pids():
            self._before[pid] = self._of(pid)[:3]
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look once more, and no longer."""
        self._ended.set()
        self._thread.join()

    @property
    def spool(self) -> int:
        """Bytes of the spool when it was largest."""
        return self._spool

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self._once()
        self._once()

    def _once(self) -> None:
        spool = Path(sys.argv[3], "corpus", "spool")
        sizes = 0
        for path in spool.glob("*"):
            try:
                sizes += path.stat().st_size
            except OSError:
                continue
        self._spool = max(self._spool, sizes)
        for pid in self._pids():
            try:
                read, written, cpu, peak = self._of(pid)
            except (OSError, ValueError, IndexError):  # it has just ended
                continue
            before = self._before.get(pid, (0, 0, 0.0))
            self.read[pid], self.written[pid] = read - before[0], written - before[1]
            self.cpu[pid], self.peak[pid] = cpu - before[2], peak

    def _of(self, pid: int) -> tuple[int, int, float, int]:
        proc = Path("/proc", str(pid))
        io = dict(line.split(": ") for line in (proc / "io").read_text().splitlines())
        stat = (proc / "stat").read_text().rpartition(")")[2].split()
        cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        status = (proc / "status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])
        return int(io["rchar"]), int(io["wchar"]), cpu, peak

    def _pids(self) -> list[int]:
        """This process and its descendants that are Ray's workers."""
        parents: dict[int, int] = {}
        workers = {os.getpid()}
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                stat = (proc / "stat").read_text().rpartition(")")[2].split()
                parents[int(proc.name)] = int(stat[1])
                if (proc / "cmdline").read_bytes().startswith(b"ray::"):
                    workers.add(int(proc.name))
            except (OSError, IndexError):
                continue
        own = set()
        for pid in workers:
            at = pid
            while at in parents and at != os.getpid():
                at = parents[at]
            if at == os.getpid():
                own.add(pid)
        return sorted(own)


if __name__ == "__main__":
    main()
