"""A process that holds states is killed in the middle: the same core set, or a clear error."""

import logging
import os
import signal
import threading

import numpy as np
import psutil
import pytest
from ray.exceptions import RayActorError
from selections import config_of, pick, started_workers

from mads_ray.errors import IncompleteError
from mads_ray.pipeline.select.rank import exact_order
from mads_ray.pipeline.select.stage import select
from mads_ray.submodular.problem import Budget, Problem

HOW = {"size": 400, "exact_rows": 0, "buffer_rows": 600}


def workers():
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::SelectionWorker"):
                found.append((process.create_time(), process.pid))
        except psutil.NoSuchProcess:
            continue
    return [pid for _, pid in sorted(found)]


class Killer(logging.Handler):
    """Kills the youngest worker, from a thread, whenever a progress line says `at`."""

    def __init__(self, at, times):
        super().__init__()
        self.at, self.left = at, times
        self.spared = set(workers())
        self.warnings, self.lines = [], []

    def emit(self, record):
        self.lines.append(record.getMessage())
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())
        elif self.at in record.getMessage() and self.left:
            self.left -= 1
            victim = next(p for p in reversed(workers()) if p not in self.spared)
            thread = threading.Thread(target=os.kill, args=(victim, signal.SIGKILL))
            thread.start()
            thread.join()


@pytest.fixture
def killer(ray_local, request):
    found, log = Killer(*request.param), logging.getLogger("mads_ray")
    level = log.level
    log.addHandler(found)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(found)
    log.setLevel(level)


@pytest.mark.parametrize(
    ("killer", "count"),
    [(("round 1, shards", 1), 2), ((", exchange", 1), 1)],
    indirect=["killer"],
    ids=["pass", "exchange"],
)
def test_a_lost_worker_costs_time_only(workers, zipf, killer, count, tmp_path):
    setup = zipf(8).with_ground(rounds=tmp_path)
    core = select(config_of(workers=count, **HOW), setup.ground)
    assert killer.left == 0
    assert sum("goes on after round" in line for line in killer.lines) == (count == 1)
    assert killer.warnings == ["select: a process that held states was lost; trying again"]
    undisturbed = pick(workers, zipf(8), config_of(**HOW))
    assert core.places_K2.tolist() == undisturbed.ranked.places_K2.tolist()


@pytest.mark.parametrize("killer", [("start at random", 9)], indirect=True, ids=["start"])
def test_a_worker_that_is_lost_every_time_is_an_error(zipf, killer):
    with pytest.raises(IncompleteError, match="same command goes on") as e:
        select(config_of(**HOW), zipf(8).ground)
    assert killer.left == 9 - 3
    assert len(killer.warnings) == 2
    assert "actor" in str(e.value)
    assert "died" in str(e.value)
    assert len(str(e.value).splitlines()) == 2


def test_a_worker_that_is_lost_before_its_rows_are_fetched_is_told_as_such(ray_local, small):
    """Only then does the stage start again."""
    setup, config = small(4), config_of()
    with started_workers(setup, config, [range(4)]) as workers:
        places = np.concatenate(workers.ask("places"))
        (facts,) = workers.ask("facts")
        os.kill(int(facts["pid"]), signal.SIGKILL)
        problem = Problem(workers.objective, Budget(rows=9))
        with pytest.raises(IncompleteError) as e:
            exact_order(workers, places, problem)
    assert isinstance(e.value.__cause__, RayActorError)
