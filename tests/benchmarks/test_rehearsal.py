import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import rehearsal
from rehearsal import make_ledger, model_seconds, timeline


def test_a_small_rehearsal_runs_for_real():
    """Drivers and Rays of their own, as in the large one: 0.2 s a shard."""
    flags = ["--workers", "1", "2", "--rows", "480", "--shard-rows", "40", "--rows-per-s", "200"]
    done = subprocess.run(
        [sys.executable, rehearsal.__file__, *flags],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    one, two = result["runs"]
    assert [(r["workers"], r["rows"], r["shards"]) for r in (one, two)] == [
        (1, 240, 6),
        (2, 480, 12),
    ]
    assert one["efficiency"] == 1.0
    assert 0.3 < one["model_share"] <= 1
    assert one["rows_per_s"] < 200 * 1.2
    assert two["workers_seen"] <= 2
    assert len(two["driver_mb"]) == 5
    assert max(two["driver_mb"]) <= two["driver_peak_mb"]
    assert two["worker_own_mb"] < 200
    assert result["tenth_of_the_rows"]["rows"] == 48


def fact(worker, began, ended, planned, rows=10):
    times = {"began": began, "ended": ended, "planned": planned, "slept": planned}
    return {"worker": worker, "rows": rows, **times}


def test_efficiency_counts_only_what_all_workers_did_together():
    """Worker b begins 2 s later; 1 s of 4 goes by between its shards."""
    a = [fact("a", t, t + 2, 2.0) for t in range(0, 8, 2)]
    b = [fact("b", 2, 4, 2.0), fact("b", 5, 7, 2.0), fact("b", 7, 9, 2.0)]
    found = timeline(b + a, 2, started=-1.0)
    assert (found["start_s"], found["window_s"], found["tail_s"]) == (3.0, 4.0, 1.0)
    assert found["model_share"] == pytest.approx(7 / 8)
    assert found["rows_per_s"] == pytest.approx(35 / 4, abs=0.1)
    assert found["overhead_us_per_row"] == pytest.approx(1e6 / 50)
    assert (found["write_s"], found["late_s"]) == (0.0, 0.0)
    assert timeline(a, 2, started=0.0)["model_share"] is None


def test_shards_take_about_the_same_time():
    seconds = [model_seconds(s, 1000, 100.0) for s in range(400)]
    assert 8 <= min(seconds) < 8.2
    assert 11.8 < max(seconds) <= 12
    assert sum(seconds) / 400 == pytest.approx(10, rel=0.03)
    ledger = make_ledger(2500, 1000)
    assert [s.rows for s in ledger.shards] == [1000, 1000, 500]
    assert len({s.checksum for s in ledger.shards}) == 3
