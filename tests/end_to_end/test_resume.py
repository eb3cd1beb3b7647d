"""A driver killed in the middle of capture, then the same command again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from runs import config_for, core_bytes

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


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_in_the_same_core_set(finished, small_corpus, tmp_path):
    output = tmp_path / "out"
    config = json.loads(config_for(small_corpus, output).model_dump_json())
    config["ray"] = {"workers": 1}  # the undisturbed run had two
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config))

    first = start(file)
    deadline = time.monotonic() + TIMEOUT_S
    while len(list(output.glob("states/part-*.done.json"))) < 2:
        assert first.poll() is None, first.stderr.read().decode()
        assert time.monotonic() < deadline, "no shard was captured"
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = {p: p.stat().st_mtime_ns for p in output.glob("states/part-*.done.json")}
    assert not (output / "run.json").exists()

    second = start(file)
    _, errors = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, errors.decode()
    assert {p: p.stat().st_mtime_ns for p in done} == done, "a committed shard was captured again"
    assert core_bytes(output) == core_bytes(finished.output)
