"""A node dies in each of the stages beside capture: one run loses three of its five nodes.

It ends in the core set of a run on one machine that nothing happened to.
"""

import json
import signal
import time

import psutil
import pytest
import yaml
from faulted import Cost, FaultedRun, core_set, local, settings, uids

from mads_ray.pipeline.run import run as run_here

pytestmark = pytest.mark.slow


def in_parts(corpus, output):
    """Calibration in two groups, selection in rounds."""
    found = settings(corpus, output) | {"ray": {}}
    found["capture"]["calibration_rows"] = 110
    found["selection"] |= {"exact_rows": 0, "buffer_rows": 20, "tolerance": 0.0, "max_rounds": 12}
    return found


class Dying:
    """Nodes of a cluster that can be spared, and what their end cost."""

    def __init__(self, run, nodes):
        self.run, self.nodes, self.costs = run, list(nodes), {}

    def dies(self, stage, title, progress):
        """The next node that has a process of this title stands still, and its power goes. Without
        it there would be no more `progress()`; what it did must be done elsewhere."""
        found = []

        def working():
            found[:] = [n for n in self.nodes if self.run.cluster.pids(n, title)]
            return found

        self.run.until(working, f"a node worked on {stage}")
        for pid in self.run.cluster.pids(found[0]):
            psutil.Process(pid).send_signal(signal.SIGSTOP)
        time.sleep(2)  # what was given to it meanwhile waits there
        before = progress()
        self.run.cluster.kill(found[0])
        self.nodes.remove(found[0])
        fault = time.monotonic()
        self.run.until(lambda: progress() > before, f"{stage} went on")
        self.costs[f"node lost during {stage}"] = round(time.monotonic() - fault, 1)


def rounds_of(output):
    """Rounds that are stored, of the core set and of the smaller set under way."""
    states = [json.loads(p.read_text(encoding="utf-8")) for p in output.glob("rounds/*/state.json")]
    return [s["rounds"] for stored in states for s in stored]


def test_a_node_dies_in_every_other_stage(cluster, small_corpus, tmp_path, costs):
    for name in "abcde":
        cluster.add(name, cpus=1)
    alone, output = tmp_path / "alone", tmp_path / "out"
    run = FaultedRun(cluster, small_corpus, output, None)
    run.config.write_text(yaml.safe_dump(in_parts(small_corpus, output)), encoding="utf-8")
    run.start()
    dying = Dying(run, "abcde")
    dying.dies("ingest", "MapWorker(MapBatches(Read))", (output / "corpus/ledger.json").exists)
    dying.dies(
        "calibration",
        "MapWorker(MapBatches(Calibrate))",
        (output / "states/calibration.npz").exists,
    )
    run.until(lambda: rounds_of(output), "a round was stored")
    dying.dies("selection", "ray::SelectionWorker", lambda: rounds_of(output))
    run.finish()
    assert "goes on after round" in run.text()

    local(run_here, in_parts(small_corpus, alone))
    assert core_set(output) == core_set(alone)
    summary = json.loads((output / "run.json").read_text(encoding="utf-8"))
    counts, twice = summary["counts"], summary["capture"]["repeated_rows"]
    assert counts["read"] == sum(counts[k] for k in ("quarantined", "duplicates", "examples"))
    wanted = uids(alone, "selection")
    for kind in ("selection", "states"):
        found = uids(output, kind)
        lost, doubled = (wanted - found).total(), (found - wanted).total()
        assert (lost, doubled) == (0, 0)
    costs += [Cost(fault, lost, doubled, twice, took) for fault, took in dying.costs.items()]
