"""The run log: whole lines whatever ends the run, and no way to end a run itself."""

import datetime
import json
import logging
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mads_ray import runlog
from mads_ray.runlog import read_log, recording


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.jsonl"


def events(path):
    return [e["event"] for e in read_log(path)]


def test_every_line_has_a_time_a_run_and_an_event(path):
    with recording(path, stages="run"):
        runlog.write("stage_finished", stage="ingest", seconds=1.5)
    lines = path.read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["event"], first["stages"]) == ("run_started", "run")
    assert (second["stage"], second["seconds"]) == ("ingest", 1.5)
    assert first["run"] == second["run"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
    told = datetime.datetime.fromisoformat(first["time"])
    assert abs(datetime.datetime.now(datetime.UTC) - told).total_seconds() < 60


def test_a_resumed_run_goes_on_in_the_same_file(path):
    for _ in range(2):
        with recording(path):
            runlog.write("run_finished")
    log = read_log(path)
    assert [e["event"] for e in log] == ["run_started", "run_finished"] * 2
    assert len({e["run"] for e in log}) == 2


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (ValueError("no such model"), "ValueError", "no such model"),
        (KeyboardInterrupt(), "KeyboardInterrupt", ""),
        (SystemExit(143), "SystemExit", "143"),
    ],
)
def test_what_ends_a_run_is_told_and_goes_on(path, error, name, message):
    with pytest.raises(type(error)), recording(path):
        raise error
    last = read_log(path)[-1]
    assert (last["event"], last["error"], last["message"]) == ("run_failed", name, message)


def test_a_torn_line_costs_nothing_else(path):
    with recording(path):
        runlog.write("stage_started", stage="ingest")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert events(path) == ["run_started"]
    with recording(path):
        pass
    assert events(path) == ["run_started", "run_started"]
    assert path.read_bytes().startswith(whole[:-20])


_WRITER = """
import sys
from pathlib import Path
from mads_ray import runlog
with runlog.recording(Path(sys.argv[1])):
    i = 0
    while True:
        runlog.write("round", round=i, what="x" * 500)
        i += 1
"""


def test_a_killed_run_leaves_whole_lines(path):
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)])
        size = path.stat().st_size if path.exists() else 0
        for _ in range(600):
            time.sleep(0.05)
            if path.exists() and path.stat().st_size > size + 50_000:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    runs = {}
    for event in read_log(path):
        runs.setdefault(event["run"], []).append(event.get("round"))
    assert len(runs) == 3
    assert all(found == [None, *range(len(found) - 1)] for found in runs.values())
    bad = path.read_text().count("\n") - sum(map(len, runs.values()))
    assert bad <= 2  # the last line of a run that another follows


def test_each_module_logs_under_its_own_name():
    for path in Path(runlog.__file__).parent.rglob("*.py"):
        assert '\nlog = logging.getLogger("' not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("target", ["/dev/full", "{tmp}/missing/log.jsonl", "{tmp}"])
def test_a_log_that_cannot_be_written_is_told_once_and_ends_nothing(target, tmp_path, caplog):
    with (
        caplog.at_level(logging.WARNING, "mads_ray"),
        recording(Path(target.format(tmp=tmp_path))),
    ):
        runlog.write("stage_started", stage="ingest")
        logging.getLogger("mads_ray").warning("another")
    told = [r.getMessage() for r in caplog.records]
    assert sum("cannot be written" in m for m in told) == 1
    assert told[-1] == "another"


def test_warnings_of_the_package_are_events(path):
    log = logging.getLogger("mads_ray.pipeline.runtime.session")
    with recording(path):
        log.info("no event")
        log.warning("out of memory with %d rows", 7)
        logging.getLogger("other").warning("no event")
    log.warning("after the run")
    started, warned = read_log(path)
    assert started["event"] == "run_started"
    assert warned["event"] == "warning"
    assert (warned["level"], warned["logger"]) == ("warning", log.name)
    assert warned["message"] == "out of memory with 7 rows"


def test_values_are_plain_json(path):
    values = {"a": np.int64(3), "b": np.float32(0.5), "c": float("nan"), "d": Path("/x")}
    with recording(path, values=values, listed=(1, None, True), text="a\u2028b\udc80\n"):
        pass
    (line,) = path.read_text().splitlines()
    event = json.loads(line, parse_constant=pytest.fail)
    assert event["values"] == {"a": 3, "b": 0.5, "c": None, "d": "/x"}
    assert event["listed"] == [1, None, True]
    assert event["text"] == "a\u2028b\udc80\n"


def test_without_a_run_nothing_is_written(path):
    runlog.write("progress", rows=1)
    with recording(path):
        pass
    runlog.write("progress", rows=2)
    assert events(path) == ["run_started"]
