"""Neurons weighed by the pool, which is the default: workers, driver and stored runs agree."""

from dataclasses import replace

import numpy as np
import pytest
from selections import config_of, objective_of, pick

from mads_ray import select
from mads_ray.config import SelectionConfig
from mads_ray.features import load_rows
from mads_ray.finished_run import FinishedRun
from mads_ray.pipeline.select.ground_set import Settings
from mads_ray.pipeline.select.stage import open_workers
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import UNIT
from mads_ray.submodular.problem import Budget, Problem

pytestmark = pytest.mark.usefixtures("in_process_module")

DEFAULTS = {k: getattr(SelectionConfig(), k) for k in ("weights", "tree_share")}


def weighed(setup, config):
    return replace(setup, objective=objective_of(config, setup.ground, setup.rows))


def test_workers_count_what_all_examples_show(zipf):
    config = config_of(workers=2, **DEFAULTS)
    setup = weighed(zipf(8), config)
    with open_workers(Settings.of(config), setup.ground) as workers:
        assert (workers.pool_counts_D == setup.objective.counts(setup.rows)).all()
        assert (workers.objective.weight_D == setup.objective.weight_D).all()
        assert len(set(workers.objective.weight_D[: workers.objective.neurons])) > 100


@pytest.mark.parametrize("exact_rows", [0, 100_000])
def test_the_core_set_is_as_good_as_lazy_greedy_s(zipf, exact_rows):
    config = config_of(size=600, exact_rows=exact_rows, buffer_rows=600, **DEFAULTS)
    setup = weighed(zipf(8), config)
    with open_workers(Settings.of(config), setup.ground) as workers:
        picked = pick(workers, setup, config)
    assert picked.gains.sum() == setup.value(picked.index)
    best = lazy_greedy(setup.rows, Problem(setup.objective, Budget(rows=600))).gains.sum()
    rng = np.random.default_rng(0)
    zero = np.mean([setup.value(rng.permutation(4000)[:600]) for _ in range(20)])
    assert (picked.gains.sum() - zero) / (best - zero) > 0.97


def test_a_stored_run_tells_its_objective(small, tmp_path):
    """`explain`, and core sets that extend it, need the same weights."""
    setup, config = small(4), config_of(tmp_path / "run", size=120, **DEFAULTS)
    result = select(config, setup.folder.root)
    finished = FinishedRun.open(result.output)
    objective, shards = finished.objective, finished.states.shards
    rows, uids = load_rows(shards, finished.tree), setup.uids.tolist()
    index = np.array([uids.index(r["_mads"]["uid"]) for r in result.rows()])
    f = objective.value(objective.counts(rows, index)) / UNIT
    assert f == pytest.approx(result.metrics["f"], rel=1e-12)
    assert len(set(objective.weight_D[: objective.neurons])) > 100


def test_uniform_weights_are_left_alone(zipf):
    config = config_of(weights="uniform")
    with open_workers(Settings.of(config), zipf(8).ground) as workers:
        assert workers.pool_counts_D is None
        assert len(set(workers.objective.weight_D[: workers.objective.neurons])) == 1
