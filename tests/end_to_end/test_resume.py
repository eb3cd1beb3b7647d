"""A driver that is killed or told to stop, in every stage, then the same command again."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml
from in_process import in_this_process
from runs import CAPTURE, config_for, core_bytes

from mads_ray import run
from mads_ray.config import CorpusConfig
from mads_ray.run_folder import RunFolder
from mads_ray.runlog import read_log

TIMEOUT_S = 300
# A batch a row: shards take long enough to be caught between two of them.
CHANGED = {"token_budget": 16}


@pytest.fixture
def config(small_corpus, tiny_model, tmp_path):
    capture = CAPTURE.model_copy(update={"model": str(tiny_model), **CHANGED})
    found = config_for(small_corpus, tmp_path / "out", capture=capture)
    return found.model_copy(update={"corpus": CorpusConfig(shard_rows=16)})


@pytest.fixture
def undisturbed(config, tmp_path):
    """What a run in one go ends in, with other workers and holders."""
    with in_this_process():
        done = run(config.model_copy(update={"output": str(tmp_path / "undisturbed")}))
    return core_bytes(done.output)


@pytest.fixture
def start(config, tmp_path):
    """Start the command in a process of its own, with a Ray of its own."""
    settings = json.loads(config.model_dump_json()) | {
        "ray": {"workers": 1, "selection_workers": 1}
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}

    def started():
        return subprocess.Popen(
            [sys.executable, "-m", "mads_ray", "run", "--config", str(file)],
            env=environment | {"HF_HUB_OFFLINE": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    return started


def until(process, holds, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def committed(folder):
    return {p: p.stat().st_mtime_ns for p in folder.states.glob("part-*.done.json")}


# Stage, signal, and seconds in it at the most; the number of shards captured before, where it
# counts. The first kill in `capture` falls into calibration.
POINTS = [
    ("ingest", signal.SIGKILL, 1.0, 0),
    ("capture", signal.SIGKILL, 6.0, 0),
    ("capture", signal.SIGTERM, 0.0, 1),
    ("capture", signal.SIGKILL, 0.0, 3),
    ("cluster", signal.SIGKILL, 0.5, 0),
    ("select", signal.SIGKILL, 1.0, 0),
    ("write", signal.SIGKILL, 0.3, 0),
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_that_is_stopped_in_every_stage_ends_in_the_same_core_set(undisturbed, start, config):
    """At random points, and between two shards."""
    folder, kept = RunFolder(config.output), {}
    chance = random.Random(time.time_ns())
    points = [(*point[:2], chance.uniform(0, point[2]), point[3]) for point in POINTS]
    for stage, number, delay, shards in points:
        before = len(read_log(folder.log)) if folder.log.exists() else 0

        def reached(stage=stage, before=before, shards=shards):
            if not folder.log.exists():
                return False
            events = read_log(folder.log)[before:]
            started = any(e["event"] == "stage_started" and e["stage"] == stage for e in events)
            return started and len(committed(folder)) >= shards

        process = start()
        until(process, reached, f"{stage} after {points}")
        time.sleep(delay)
        process.send_signal(number)
        if number == signal.SIGTERM:
            _, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 143
            assert "stopped by SIGTERM; the same command goes on" in errors.decode()
            assert read_log(folder.log)[-1]["event"] == "run_failed"
        else:
            process.wait()
            process.stderr.close()  # its Ray may still be there for a moment
        assert not folder.run_json.exists()
        after = committed(folder)
        assert {p: after[p] for p in kept} == kept, "a committed shard was captured again"
        kept = after
        if shards:
            assert len(kept) < len(folder.load_ledger().shards)

    last = start()
    _, errors = last.communicate(timeout=TIMEOUT_S)
    assert last.returncode == 0, errors.decode()
    after = committed(folder)
    assert {p: after[p] for p in kept} == kept, "a committed shard was captured again"
    assert core_bytes(folder.root) == undisturbed, f"stopped at {points}"
    events = [e["event"] for e in read_log(folder.log)]
    assert events.count("run_started") == len(points) + 1
