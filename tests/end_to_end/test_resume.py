"""A driver that is killed or told to stop, at any stage, then the same command again."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml
from runs import config_for, core_bytes

from mads_ray.runlog import read_log

TIMEOUT_S = 300


def start(config_file):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "mads_ray", "run", "--config", str(config_file)],
        env=environment | {"HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture
def output(small_corpus, tmp_path):
    return tmp_path / "out"


@pytest.fixture
def config_file(small_corpus, output, tmp_path):
    config = json.loads(config_for(small_corpus, output).model_dump_json())
    config["ray"] = {"workers": 1}  # the undisturbed run had two
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def until(process, holds, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def finish(config_file):
    last = start(config_file)
    _, errors = last.communicate(timeout=TIMEOUT_S)
    assert last.returncode == 0, errors.decode()


def committed(output):
    return {p: p.stat().st_mtime_ns for p in output.glob("states/part-*.done.json")}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_stopped_goes_on(finished, output, config_file, number):
    first = start(config_file)
    until(first, lambda: len(committed(output)) >= 2, "no shard was captured")
    os.kill(first.pid, number)
    _, errors = first.communicate(timeout=60)
    done = committed(output)
    assert not (output / "run.json").exists()
    if number == signal.SIGTERM:
        assert first.returncode == 143
        assert "stopped by SIGTERM; the same command goes on" in errors.decode()
        assert read_log(output / "log.jsonl")[-1]["event"] == "run_failed"

    finish(config_file)
    after = committed(output)
    assert {p: after[p] for p in done} == done, "a committed shard was captured again"
    assert core_bytes(output) == core_bytes(finished.output)


STAGES = {"ingest": 1.0, "capture": 14.0, "cluster": 0.5, "select": 1.0, "write": 0.3}


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_in_the_same_core_set(
    finished, output, config_file
):
    """At random points, calibration and capture being the two halves of the stage `capture`."""
    chance = random.Random(time.time_ns())
    points = [(stage, chance.uniform(0, most)) for stage, most in STAGES.items()]
    for stage, delay in points:
        before = len(read_log(output / "log.jsonl")) if output.exists() else 0

        def reached(stage=stage, before=before):
            if not (output / "log.jsonl").exists():
                return False
            events = read_log(output / "log.jsonl")[before:]
            return any(e["event"] == "stage_started" and e["stage"] == stage for e in events)

        process = start(config_file)
        until(process, reached, stage)
        time.sleep(delay)
        process.kill()
        process.wait()
        process.stderr.close()
    finish(config_file)
    assert core_bytes(output) == core_bytes(finished.output), f"killed at {points}"
    events = [e["event"] for e in read_log(output / "log.jsonl")]
    assert events.count("run_started") == len(points) + 1
