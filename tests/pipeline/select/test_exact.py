"""Exact mode on Ray: centralised lazy greedy bit for bit, whatever the shards and the workers."""

import numpy as np
import pytest
from selections import config_of, pick, started_workers

from mads_ray.pipeline.select.scores import compare_with_random
from mads_ray.pipeline.select.stage import select
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import UNIT
from mads_ray.submodular.problem import Budget, Problem

pytestmark = pytest.mark.usefixtures("in_process_module")

K = 180
PREFIXES = {0.01: 12, 0.02: 24, 0.05: 60, 0.1: 120}


@pytest.fixture(scope="module")
def greedy(small):
    setup = small(4)
    found = lazy_greedy(setup.rows, Problem(setup.objective, Budget(rows=K)))
    return setup.uids[found.picks].tolist(), found.gains


@pytest.mark.parametrize(
    ("shards", "spread"),
    [(1, [[0]]), (3, [[2], [0, 1]]), (8, [[7, 0, 3], [1], [6, 2, 5, 4]])],
)
def test_it_is_lazy_greedy_over_all_rows(small, greedy, shards, spread):
    setup, config = small(shards), config_of(size=K)
    with started_workers(setup, config, spread) as workers:
        picked = pick(workers, setup, config)
    uids, gains = greedy
    assert picked.exact
    assert picked.uids == uids
    assert picked.gains.tolist() == gains.tolist()


@pytest.mark.parametrize("budget", [{"size": K}, {"token_budget": 9000}])
def test_what_is_certified_does_not_depend_on_shards_or_workers(small, budget):
    config, found = config_of(**budget), []
    for shards, spread in ((1, [[0]]), (3, [[2], [0, 1]]), (8, [[7, 0, 3], [1], [6, 2, 5, 4]])):
        setup = small(shards)
        with started_workers(setup, config, spread) as workers:
            picked = pick(workers, setup, config)
            problem = picked.exchange.problem
            found.append(compare_with_random(workers, problem, picked.ranked, 1200, 5))
    for other in found[1:]:
        assert other.metrics == found[0].metrics
        assert other.prefixes == found[0].prefixes
    assert 0.98 < found[0].metrics["certified_ratio"] < 1


@pytest.fixture(scope="module")
def core(in_process_module, small):
    return select(config_of(size=K, workers=2), small(4).ground)


def test_the_stage_as_a_whole_gives_it(core, small, greedy):
    setup = small(4)
    uids, gains = greedy
    assert core.mode == "exact"
    assert setup.uids[setup.index(core.places_K2)].tolist() == uids
    assert core.gains_K.tolist() == (gains / UNIT).tolist()


def test_its_figures_are_those_of_the_set(core, small):
    setup, metrics = small(4), core.metrics
    index = setup.index(core.places_K2)
    assert metrics["f"] == setup.value(index) / UNIT
    assert metrics["f"] == pytest.approx(core.gains_K.sum())
    counts = setup.objective.counts(setup.rows, index)
    assert metrics["neuron_coverage"] == (counts[: setup.objective.neurons] > 0).mean()
    assert metrics["f_random_mean"] < metrics["f"] <= metrics["opt_upper_bound"]
    assert metrics["lift"] == 1.0
    assert metrics["methods"] == {
        "mads": {
            "rows": K,
            "tokens": setup.rows.tokens_N[index].sum(),
            "f": metrics["f"],
            "neuron_coverage": metrics["neuron_coverage"],
        }
    }


def test_every_prefix_is_the_greedy_core_set_of_its_size(core, small):
    setup, prefixes = small(4), core.metrics["prefixes"]
    assert {p["fraction"]: p["size"] for p in prefixes} == PREFIXES
    for p in prefixes:
        greedy = lazy_greedy(setup.rows, Problem(setup.objective, Budget(rows=p["size"])))
        assert p["f"] == pytest.approx(greedy.gains.sum() / UNIT)
        assert p["lift"] == 1.0
        assert 0 < p["lift_at_least"] <= 1.0


def test_the_random_core_sets_are_of_the_same_size(core, small):
    """Their mean lies within what independent draws give."""
    setup, rng = small(4), np.random.default_rng(0)
    draws = [setup.value(rng.permutation(1200)[:K]) / UNIT for _ in range(40)]
    spread = np.std(draws)
    assert abs(core.metrics["f_random_mean"] - np.mean(draws)) < 4 * spread / np.sqrt(20)
    assert 0.4 * spread < core.metrics["f_random_std"] < 2.5 * spread
