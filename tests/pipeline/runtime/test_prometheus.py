"""What a run tells while it goes on: metrics (scraped from a real Ray), events and lines."""

import json
import logging
import re
import subprocess
import sys

import pytest
from selections import HARD, config_of, pick

import mads_ray.pipeline.runtime.progress as progress_module
import mads_ray.pipeline.runtime.prometheus as metrics
from mads_ray import runlog, select
from mads_ray.pipeline.runtime.progress import Progress
from mads_ray.pipeline.runtime.prometheus import METRICS, exported, observe
from mads_ray.runlog import read_log, recording

_SCRAPED = """
import json, socket, time, urllib.request
from mads_ray.pipeline.runtime.local import local_ray
from mads_ray.pipeline.runtime.prometheus import METRICS, exported, observe
from mads_ray.pipeline.runtime.progress import Progress
from mads_ray.pipeline.runtime.progress import Clock

observe("mads_ray_rows", 1000, "capture")  # before there is a Ray: nothing
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
with local_ray(num_cpus=1, object_store_memory=100_000_000, logging_level=40,
               _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 1000}):
    with Clock().stage("ingest"):
        pass
    with Clock().stage("capture"):
        progress = Progress("capture", 100, 40)
        progress.add(20, 900, padded_tokens=1000, quarantined=2, at_peak_s=3.0, device_s=10.0)
        progress.add(10, 300, padded_tokens=500)
        observe("mads_ray_exchange_round", 7)
        observe("mads_ray_f", 123.5)
        observe("mads_ray_lift_at_least", 0.25)
        observe("mads_ray_f", None)
        observe("mads_ray_f", "text")  # an error of ours, which must not end a run
        text, until = "", time.monotonic() + 20
        while time.monotonic() < until and not all(f"\\n{exported(n)}{{" in text for n in METRICS):
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                    text = page.read().decode()
            except OSError:
                pass
    print(json.dumps([line for line in text.splitlines() if "mads_ray" in line]))
observe("mads_ray_rows", 1, "capture")
"""


@pytest.fixture(scope="module")
def scraped():
    """Value by (name, stage), and the kinds, as Prometheus gets them."""
    # A process and a Ray of its own: the tests share one Ray in this one.
    ended = subprocess.run(
        [sys.executable, "-c", _SCRAPED], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = json.loads(ended.stdout.splitlines()[-1])
    values, kinds = {}, {}
    for line in lines:
        if line.startswith("# TYPE"):
            kinds[line.split()[2]] = line.split()[3]
        elif not line.startswith("#"):
            stage = re.search(r'stage="([^"]*)"', line)
            name = line.partition("{")[0]
            values[name, stage and stage[1]] = float(line.split()[-1])
    return values, kinds


def test_prometheus_sees_every_metric_by_its_exported_name(scraped):
    values, kinds = scraped
    assert {name for name, _ in values} == {exported(name) for name in METRICS}
    assert kinds == {exported(name): metric.kind for name, metric in METRICS.items()}


def test_prometheus_sees_exact_sums(scraped):
    values, _ = scraped
    per_second = values.pop(("ray_mads_ray_tokens_per_second", "capture"))
    assert per_second > 0
    assert values == {
        ("ray_mads_ray_rows_total", "capture"): 30,
        ("ray_mads_ray_resumed_rows_total", "capture"): 40,
        ("ray_mads_ray_quarantined_rows_total", "capture"): 2,
        ("ray_mads_ray_tokens_total", "capture"): 1200,
        ("ray_mads_ray_padded_tokens_total", "capture"): 1500,
        ("ray_mads_ray_stage", "ingest"): 0,
        ("ray_mads_ray_stage", "capture"): 1,
        ("ray_mads_ray_progress", "capture"): 0.7,
        ("ray_mads_ray_padding_waste", "capture"): pytest.approx(0.2),
        ("ray_mads_ray_mfu", "capture"): pytest.approx(0.3),
        ("ray_mads_ray_exchange_round", None): 7,
        ("ray_mads_ray_f", None): 123.5,
        ("ray_mads_ray_lift_at_least", None): 0.25,
    }


def test_a_metric_never_raises(monkeypatch):
    def broken(name):
        raise RuntimeError("no agent")

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr(metrics, "_ray_metric", broken)
    observe("mads_ray_rows", 3, "capture")


class Time:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def seen(monkeypatch):
    found = []
    monkeypatch.setattr(
        progress_module, "observe", lambda name, value, stage: found.append((name, value, stage))
    )
    return found


@pytest.fixture
def clock(monkeypatch):
    clock = Time()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_progress_is_told_at_most_every_ten_seconds_and_at_the_end(clock, seen, tmp_path):
    path = tmp_path / "log.jsonl"
    with recording(path):
        progress = Progress("capture", 1000, 100)
        for _ in range(90):
            clock.now += 1.0
            progress.add(10, 500, padded_tokens=600, quarantined=1)
        assert progress.close() == 90
    events = [e for e in read_log(path) if e["event"] == "progress"]
    assert [e["rows"] for e in events] == [*range(200, 1000, 100), 1000]
    last = events[-1]
    assert (last["stage"], last["total_rows"], last["resumed_rows"]) == ("capture", 1000, 100)
    assert (last["rows_per_s"], last["tokens_per_s"]) == (10, 500)
    assert last["padding_waste"] == pytest.approx(1 / 6, abs=1e-6)
    assert (last["quarantined_rows"], last["mfu"]) == (90, None)
    assert sum(v for name, v, _ in seen if name == "mads_ray_rows") == 900
    assert sum(v for name, v, _ in seen if name == "mads_ray_tokens") == 45_000
    assert sum(v for name, v, _ in seen if name == "mads_ray_resumed_rows") == 100


def test_a_line_tells_what_is_known(clock, seen):
    progress = Progress("capture", 1000)
    clock.now += 10.0
    progress.add(100)
    assert progress.line() == "capture: 100 of 1,000 rows, 10.0 rows/s, 1m30s left"
    progress.add(100, 4000, padded_tokens=5000, quarantined=3, at_peak_s=4.0, device_s=10.0)
    expected = "200 of 1,000 rows, 20.0 rows/s, 400 tokens/s, 40% MFU, 3 quarantined, 40s left"
    assert progress.line() == f"capture: {expected}"


def test_a_stage_that_was_done_before_is_told_as_such(clock, seen, tmp_path):
    path = tmp_path / "log.jsonl"
    with recording(path):
        Progress("capture", 50, 50).close()
        Progress("calibrate", 0).close()
    (event,) = (e for e in read_log(path) if e["event"] == "progress")
    assert (event["rows"], event["resumed_rows"], event["rows_per_s"]) == (50, 50, 0)


def test_utilisation_is_time_at_peak_over_time():
    import torch

    from mads_ray.bench.workload import random_model
    from mads_ray.capture.flops import Flops, Peak

    assert Peak.of(random_model("tiny", torch.device("cpu"), torch.float32), "bfloat16") is None
    peak = Peak(Flops(per_token=2e9, per_token_pair=1e6), 1e12)
    lengths = [100, 200]
    whole = (2e9 * 300 + 1e6 * (100 * 101 + 200 * 201) / 2) / 1e12
    assert peak.seconds(300, lengths) == pytest.approx(whole)
    assert peak.seconds(150, lengths) == pytest.approx(whole / 2)  # the other half was known
    assert peak.seconds(0, []) == 0


def test_the_rounds_of_an_exchange_are_events(workers, zipf, tmp_path):
    path = tmp_path / "log.jsonl"
    with recording(path):
        pick(workers, zipf(8), config_of(size=600, exact_rows=0, buffer_rows=600))
    rounds = [e for e in read_log(path) if e["event"] == "round"]
    assert rounds[0]["what"] == "start at random"
    assert [e["round"] for e in rounds] == list(range(len(rounds)))
    assert all(e["level"] == 0 and e["rows"] == 600 for e in rounds)
    f = [e["f"] for e in rounds]
    assert f == sorted(f)
    assert f[-1] > 1.01 * f[0]
    assert 0.9 < rounds[-1]["lift_at_least"] <= 1


def test_a_run_leaves_its_story(by_random):
    log = read_log(by_random.output / "log.jsonl")
    told = [(e["event"], e.get("stage")) for e in log if e["event"] != "warning"]
    stages = [
        (event, stage)
        for stage in ("density", "cluster", "select", "write", "report")
        for event in ("stage_started", "stage_finished")
    ]
    assert told == [("run_started", None), ("cluster", None), *stages, ("run_finished", None)]
    started, cluster, finished = log[0], log[1], log[-1]
    assert started["stages"] == "select"
    assert started["settings"]["selection"] == HARD | {"size": 120, "method": "random"}
    assert {"mads_ray", "ray", "numpy"} <= started["versions"].keys()
    assert (cluster["nodes"], cluster["cpus"]) == (1, 3)
    assert finished["counts"]["selected"] == 120
    assert finished["metrics"]["f"] == pytest.approx(by_random.metrics["f"], abs=1e-6)
    assert finished["timings"]["total"] > 0
    assert len({e["run"] for e in log}) == 1


def test_a_run_that_fails_says_why(ray_local, small, tmp_path, caplog):
    from mads_ray.errors import ConfigError

    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError):
        select(config_of(tmp_path / "out", size=5000), small(4).folder.root)
    log = read_log(tmp_path / "out" / "log.jsonl")
    assert (log[-1]["event"], log[-1]["error"]) == ("run_failed", "ConfigError")
    assert "5000" in log[-1]["message"]
    assert ("stage_started", "select") in [(e["event"], e.get("stage")) for e in log]
    assert ("stage_finished", "select") not in [(e["event"], e.get("stage")) for e in log]
    assert runlog._current is None
