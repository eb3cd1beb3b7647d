"""One real `ray job submit`, with a node killed in the middle of it."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from faulted import REPO, FaultedRun, core_set, settings
from netns import BIN, Cluster, possible

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    if not possible():
        pytest.skip("network namespaces need root and ip")
    made = Cluster(dashboard=True)
    try:
        yield made
    finally:
        made.close()


class Submitted(FaultedRun):
    """Through the Jobs API of the head, which nothing outside the cluster can reach."""

    def start(self):
        command = [BIN / "ray", "job", "submit", "--address=http://127.0.0.1:8265"]
        command += ["--working-dir", self.work, "--", sys.executable, "jobs/pipeline.py"]
        with self.log.open("a", encoding="utf-8") as log:
            self.process = self.cluster.run(
                "head", [*command, "--config", "run.yaml"], log, cwd=self.work
            )
        return self


@pytest.fixture
def submitted(cluster, small_corpus, prepared, tmp_path):
    for name in ("a", "b"):
        cluster.add(name)
    run = Submitted(cluster, small_corpus, tmp_path / "out", prepared)
    run.work = tmp_path / "work"
    run.work.mkdir()
    for name in ("jobs", "mads_ray"):
        shutil.copytree(REPO / name, run.work / name)
    config = settings(small_corpus, run.output)
    (run.work / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return run


def test_a_submitted_job_survives_a_node(submitted, reference):
    submitted.start().until_capturing()
    submitted.until(lambda: submitted.working("b"), "b had work")
    submitted.cluster.kill("b")
    submitted.finish()
    told = submitted.text()
    assert "a worker was lost" in told
    assert "115 of 115 rows" in told
    assert "succeeded" in told
    assert core_set(submitted.output) == core_set(reference)
    keep = os.environ.get("MADS_RAY_JOB_LOG")
    if keep:
        Path(keep).write_text(told, encoding="utf-8")
