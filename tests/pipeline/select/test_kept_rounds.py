"""A selection whose process is killed goes on after its last round, with other workers."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from selections import config_of, make_run

from mads_ray import select
from mads_ray.runlog import read_log

HOW = {"size": 600, "exact_rows": 0, "buffer_rows": 300, "tolerance": 0.0002}


def rounds_of(log, run=1):
    """(set, round) that the first or second run of a log went through; round 0 is the start."""
    events, started = read_log(log), 0
    found = []
    for event in events:
        started += event["event"] == "run_started"
        if event["event"] == "round" and started == run:
            found.append((event["level"], event["round"]))
    return found


@pytest.mark.slow
def test_a_killed_selection_goes_on_after_its_last_round(ray_local, tmp_path):
    states = make_run(tmp_path / "states", 4000, 8)
    whole = select(config_of(tmp_path / "whole", **HOW), states.root)
    every = rounds_of(tmp_path / "whole" / "log.jsonl")
    output = tmp_path / "killed"
    config = json.loads(config_of(output, workers=2, **HOW).model_dump_json())
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mads_ray",
            "select",
            "--config",
            file,
            "--states",
            states.root,
            "-o",
            output,
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120

    def kept():
        (state,) = output.glob("rounds/*/state.json")
        return json.loads(state.read_text(encoding="utf-8"))

    while not list(output.glob("rounds/*/state.json")) or kept()[-1]["rounds"] < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (last,) = kept()
    again = select(config_of(output, **HOW), states.root)
    assert again.metrics == whole.metrics
    assert again.selection().equals(whole.selection())
    assert not (output / "rounds").exists()
    # What came after the last round stored was done again, and nothing else.
    stored = every.index((0, last["rounds"]))
    assert rounds_of(output / "log.jsonl", run=2) == every[stored + 1 :]
