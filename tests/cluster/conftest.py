"""Clusters in network namespaces, and the undisturbed run that every faulted one must equal."""

import os
from pathlib import Path

import pytest
from faulted import Cost, local, record, settings, start_from
from netns import Cluster, possible

from mads_ray.pipeline.run import capture_states, run

COSTS: list[Cost] = []


def pytest_sessionfinish():
    """Write the table where `make test-cluster` wants it."""
    target = os.environ.get("MADS_RAY_FAULT_TABLE")
    if target and COSTS:
        record(COSTS, Path(target))


@pytest.fixture(scope="session")
def costs():
    return COSTS


@pytest.fixture
def cluster(request):
    """Without a dashboard, unless the test's parameter is True."""
    if not possible():
        pytest.skip("network namespaces need root and ip")
    made = Cluster(dashboard=getattr(request, "param", False))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def prepared(small_corpus, tmp_path_factory):
    """A local capture, whose corpus and calibration the faulted runs start from."""
    folder = tmp_path_factory.mktemp("prepared")
    local(capture_states, settings(small_corpus, folder / "out"))
    return folder / "out"


@pytest.fixture(scope="session")
def reference(prepared, small_corpus, tmp_path_factory):
    """The undisturbed run from there."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "out").mkdir()
    start_from(prepared, folder / "out")
    local(run, settings(small_corpus, folder / "out"))
    return folder / "out"
