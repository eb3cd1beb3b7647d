"""What a cluster does to a run, with real processes on several real Ray nodes.

After every fault the core set is the undisturbed run's, byte for byte. What each fault costs goes
into the fault table (`make test-cluster`).
"""

import json
import signal
import subprocess
import sys
import time

import psutil
import pyarrow.parquet as pq
import pytest
from faulted import ADDRESS, FaultedRun, alive, core_set, uids

from mads_ray.capture.model import load_tokenizer, locate
from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.corpus.conversation import Conversation

pytestmark = pytest.mark.slow
POISON = "tests/cluster/poison"


@pytest.fixture
def make_run(cluster, small_corpus, prepared, tmp_path):
    """A run on a cluster of these workers."""

    def make(*workers, output=None, settings=None, **environment):
        for name in workers:
            cluster.add(name, **environment)
        output = output or tmp_path / "out"
        return FaultedRun(cluster, small_corpus, output, prepared, **(settings or {}))

    return make


def settle(run, fault, reference, costs, lost_actors):
    cost = run.cost(fault, reference, lost_actors)
    costs.append(cost)
    assert (cost.rows_lost, cost.rows_duplicated) == (0, 0)
    assert core_set(run.output) == core_set(reference)


def test_an_actor_is_killed(make_run, reference, costs):
    run = make_run("a", "b").start()
    run.until_capturing()
    (key, pid), *_ = run.working("a").items()
    run.fault()
    psutil.Process(pid).kill()
    run.until_recovered([key])
    run.finish()
    settle(run, "actor killed with -9", reference, costs, 1)
    assert "a worker was lost" in run.text()


@pytest.mark.parametrize("cluster", [True], indirect=True, ids=["dashboard"])
def test_a_worker_is_killed_for_memory(make_run, reference, costs):
    """By Ray's own memory monitor, because another program of the node takes all there is. With a
    dashboard Ray can be asked why."""
    memory = psutil.virtual_memory()
    limit = (memory.total - memory.available + 4.5e9) / memory.total
    run = make_run("a", settings={"workers": 2})  # a GB each
    run.cluster.add("b", RAY_memory_usage_threshold=f"{limit:.3f}")
    run.start().until_capturing(shards=2)
    run.until(lambda: run.working("b"), "b had work")
    before = run.working("b")
    run.fault()
    hog = (
        "import time\nheld = []\n"
        "for _ in range(50):\n    held.append(b'x' * 200_000_000)\n"
        "time.sleep(600)"
    )
    eater = run.cluster.run("b", [sys.executable, "-c", hog])
    try:
        run.until(lambda: not all(map(alive, before.values())), "a worker was killed")
        lost = [key for key, pid in before.items() if not alive(pid)]
    finally:
        for p in run.cluster.pids("b", "held.append"):
            psutil.Process(p).kill()
        eater.wait(60)
    run.until_recovered(lost)
    run.finish()
    assert "a worker was lost (" in run.text(), run.text()
    assert "memory" in run.text().lower(), run.text()
    settle(run, "worker killed for memory", reference, costs, len(lost))


def test_a_raylet_is_killed(make_run, reference, costs):
    run = make_run("a", "b").start()
    run.until_capturing()
    run.until(lambda: run.working("b"), "b had work")
    keys = run.working("b")
    run.fault()
    run.cluster.signal("b", "/raylet ", signal.SIGKILL)
    run.until_recovered(keys)
    run.finish()
    settle(run, "raylet killed", reference, costs, len(keys))


def test_a_node_loses_its_link_and_gets_it_back(make_run, reference, costs):
    run = make_run("a", "b").start()
    run.until_capturing()
    run.until(lambda: run.working("b"), "b had work")
    keys = run.working("b")
    run.fault()
    run.cluster.cut("b")
    run.until_recovered(keys)
    run.finish()  # the others need not wait for it
    run.cluster.restore("b")
    settle(run, "link cut", reference, costs, len(keys))


def test_a_link_that_is_soon_back(make_run, reference, costs):
    run = make_run("a", "b").start()
    run.until_capturing()
    run.fault()
    run.cluster.cut("b")
    time.sleep(6)  # Ray may give its workers up, and need not
    run.cluster.restore("b")
    run.until_going_on()
    run.finish()
    settle(run, "link cut for 6 s and restored", reference, costs, 2)


def test_a_node_joins(make_run, reference, costs):
    run = make_run("a").start()
    run.until_capturing(shards=1)
    busy = psutil.Process(next(iter(run.working("a").values())))
    busy.suspend()  # or the corpus, which is small, would be done before
    run.fault()
    run.cluster.add("b")
    run.until(lambda: run.working("b"), "the new node had work")
    run.recovered = time.monotonic()
    busy.resume()
    run.finish()
    settle(run, "node added", reference, costs, 0)


def test_the_head_and_the_driver_are_killed(make_run, reference, costs):
    run = make_run("a", "b").start()
    run.until_capturing()
    done = {p: p.stat().st_mtime_ns for p in run.output.glob("states/part-*.done.json")}
    keys = {name.split(".")[0] for name in run.journals()}
    for name in ("head", "a", "b"):
        run.cluster.kill(name)
    run.process.wait(60)
    assert not (run.output / "run.json").exists()
    run.cluster.start_head()
    run.cluster.add("a")
    run.fault()
    run.start().until_recovered(keys)
    run.finish()
    assert {p: p.stat().st_mtime_ns for p in done} == done, "a committed shard was captured again"
    settle(run, "head and driver killed, then restarted", reference, costs, 3)


def test_the_object_store_is_full(make_run, reference, costs):
    run = make_run("a", "b", store=80_000_000).start()
    run.until_capturing()
    fill = (
        "import ray, numpy as np\n"
        f"ray.init(address='{ADDRESS}', log_to_driver=False)\n"
        "@ray.remote(num_cpus=0)\nclass Hog:\n"
        "    def hold(self):\n"
        "        self.held = [ray.put(np.ones(9_000_000, np.uint8)) for _ in range(30)]\n"
        "        return len(self.held)\n"
        "from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At\n"
        "at = [At(n['NodeID'], False) for n in ray.nodes() if n['Resources'].get('CPU')]\n"
        "hogs = [Hog.options(scheduling_strategy=a).remote() for a in at]\n"
        "print('FULL', ray.get([h.hold.remote() for h in hogs]), flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    hog = run.cluster.run("head", [sys.executable, "-c", fill])
    lines = iter(hog.stdout.readline, "")
    assert any("FULL [30, 30]" in line for line in lines)
    run.fault()
    run.until_going_on()
    run.finish()  # clustering and selection too, in a store that others have filled
    assert hog.poll() is None
    hog.kill()
    settle(run, "object store full", reference, costs, 0)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
    subprocess.run(mount, check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_the_disk_is_full(make_run, reference, costs, small_disk):
    settings = {"beside": small_disk.parent}
    run = make_run("a", "b", output=small_disk / "out", settings=settings).start()
    run.until_capturing()
    ballast = small_disk / "ballast"
    filling = ["dd", "if=/dev/zero", f"of={ballast}", "bs=16k"]
    assert subprocess.run(filling, capture_output=True, check=False).returncode == 1
    run.finish(code=2)
    assert "No space left on device" in run.text()
    assert "the same command goes on" in run.text()
    keys = {name.split(".")[0] for name in run.journals()}
    ballast.unlink()
    run.fault()
    run.start().until_recovered(keys)
    run.finish()
    settle(run, "disk full", reference, costs, 3)


def test_a_row_crashes_the_process_of_the_model(make_run, prepared, reference, costs):
    """It alone is lost to quarantine, with its reason; the others keep the states they would have
    had without it."""
    row, signature = a_row(prepared)
    poisoned = {"PYTHONPATH": POISON, "MADS_RAY_TEST_POISON": signature}
    run = make_run("a", "b", **poisoned)
    run.fault()
    run.start(**poisoned)
    run.finish()
    run.recovered = time.monotonic()
    wanted, found = uids(reference, "selection"), uids(run.output, "selection")
    assert wanted - found == {row["uid"]: 1}
    assert not found - wanted
    bad = [
        r
        for part in run.output.glob("quarantine/part-capture-*.parquet")
        for r in pq.read_table(part).to_pylist()
    ]
    assert [(r["source_file"], r["source_row"]) for r in bad] == [
        (row["source_file"], row["source_row"])
    ]
    assert bad[0]["reason"] == "ends_the_process"
    counts = json.loads((run.output / "run.json").read_text())["counts"]
    assert counts["read"] == counts["quarantined"] + counts["duplicates"] + counts["examples"]
    summary = run.cost("a row crashes the process", reference, 10, gone=1)
    costs.append(summary)


def a_row(prepared):
    """An example, and how its process will know it."""
    located = locate("smollm2-135m", None, "auto")
    renderer = PromptRenderer(load_tokenizer(located), 256, "all")
    table = pq.read_table(sorted((prepared / "corpus").glob("shard-*.parquet"))[1])
    row = table.to_pylist()[7]
    ids = renderer(Conversation.from_json(row["messages"])).ids_T
    return row, f"{len(ids)},{int(ids.sum())}"


def test_an_actor_hangs(make_run, reference, costs):
    run = make_run("a", "b", settings={"hang_s": 12.0}).start()
    run.until_capturing()
    run.until(lambda: run.working("b"), "b had work")
    ((key, pid), *_) = run.working("b").items()
    run.fault()
    psutil.Process(pid).suspend()
    run.until_recovered([key])
    run.finish()
    assert "no batch in 12 s" in run.text()
    settle(run, "actor hangs", reference, costs, 1)
