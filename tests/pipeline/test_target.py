"""A target set weighs the features by how often it shows them."""

import numpy as np
import pytest
from selections import config_of, pick, settings_of

from mads_ray.features import configured_objective
from mads_ray.pipeline.select.stage import open_workers
from mads_ray.pipeline.target import feature_counts
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.problem import Budget, Problem

pytestmark = pytest.mark.usefixtures("in_process_module")

N, K = 1200, 60


@pytest.fixture(scope="module")
def branch(small):
    """Row numbers of a coarse cluster of middling size."""
    top = small(4).rows.paths_NP[:, 0]
    sizes = np.bincount(top)
    found = np.flatnonzero(top == np.argsort(sizes)[-2])
    assert 0.1 * N < len(found) < 0.4 * N
    return found


@pytest.fixture(scope="module")
def targeted(small, branch):
    """The corpus with the rows of that cluster as its target."""
    setup = small(4)
    return setup.with_ground(target_counts_D=setup.objective.counts(setup.rows, branch))


@pytest.fixture(scope="module")
def weighted(targeted):
    ground = targeted.ground
    about = (ground.states.manifest, ground.tree, ground.target_counts_D)
    return configured_objective(config_of().selection, *about)


@pytest.fixture(scope="module")
def target_workers(in_process_module, targeted):
    with open_workers(settings_of(workers=2), targeted.ground) as workers:
        yield workers


def test_the_targets_features_are_counted_over_all_of_its_shards(small):
    setup = small(4)
    counts = feature_counts(setup.ground.states.shards, setup.ground.tree, setup.objective)
    assert (counts == setup.objective.counts(setup.rows)).all()


def test_what_the_target_never_shows_has_no_weight(target_workers, targeted, weighted):
    shown = targeted.ground.target_counts_D > 0
    assert (target_workers.objective.weight_D == weighted.weight_D).all()
    assert (weighted.weight_D[~shown] == 0).all()
    assert (weighted.weight_D[shown] > 0).all()
    assert (~shown[: weighted.neurons]).any()


def test_what_it_shows_weighs_as_often_as_it_shows_it(targeted, weighted):
    n, counts = weighted.neurons, targeted.ground.target_counts_D
    share = counts[:n] / counts[:n].mean()
    assert np.abs(weighted.weight_D[:n] / 256 - share).max() < 1 / 256
    # As much weight in all as without a target, on the neurons and on every level of the tree.
    plain = targeted.objective.weight_D
    stops = np.cumsum([n, *targeted.ground.tree.level_sizes])
    for start, stop in zip([0, *stops], stops, strict=False):
        assert weighted.weight_D[start:stop].sum() == pytest.approx(plain[start:stop].sum(), 0.01)


@pytest.mark.parametrize("mode", [{}, {"exact_rows": 0, "buffer_rows": 200}])
def test_the_core_set_comes_from_the_targets_cluster(target_workers, targeted, branch, mode):
    picked = pick(target_workers, targeted, config_of(size=K, **mode))
    assert np.isin(picked.index, branch).mean() > 0.8
    assert len(branch) < 0.4 * N


def test_it_is_lazy_greedy_under_these_weights(target_workers, targeted, weighted):
    greedy = lazy_greedy(targeted.rows, Problem(weighted, Budget(rows=K)))
    picked = pick(target_workers, targeted, config_of(size=K))
    assert picked.index.tolist() == greedy.picks.tolist()
    assert picked.gains.tolist() == greedy.gains.tolist()
