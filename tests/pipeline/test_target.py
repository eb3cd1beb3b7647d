"""A target set weighs the features by how often it shows them."""

import numpy as np
import pytest
from selections import config_of, pick

from mads_ray.features import configured_objective
from mads_ray.pipeline.select.stage import open_pool
from mads_ray.pipeline.target import target_counts
from mads_ray.submodular.greedy import Budget, lazy_greedy

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
    return setup.with_corpus(target_counts_D=setup.objective.counts(setup.rows, branch))


@pytest.fixture(scope="module")
def weighted(targeted):
    corpus = targeted.corpus
    return configured_objective(config_of(), corpus.manifest, corpus.tree, corpus.target_counts_D)


@pytest.fixture(scope="module")
def target_pool(in_process_module, targeted):
    with open_pool(config_of(holders=2), targeted.corpus) as pool:
        yield pool


def test_the_targets_features_are_counted_over_all_of_its_shards(small):
    setup = small(4)
    counts = target_counts(setup.corpus.shards, setup.corpus.tree, setup.objective)
    assert (counts == setup.objective.counts(setup.rows)).all()


def test_what_the_target_never_shows_has_no_weight(target_pool, targeted, weighted):
    shown = targeted.corpus.target_counts_D > 0
    assert (target_pool.objective.weight_D == weighted.weight_D).all()
    assert (weighted.weight_D[~shown] == 0).all()
    assert (weighted.weight_D[shown] > 0).all()
    assert (~shown[: weighted.neurons]).any()


def test_what_it_shows_weighs_as_often_as_it_shows_it(targeted, weighted):
    n, counts = weighted.neurons, targeted.corpus.target_counts_D
    share = counts[:n] / counts[:n].mean()
    assert np.abs(weighted.weight_D[:n] / 256 - share).max() < 1 / 256
    # As much weight in all as without a target, on the neurons and on every level of the tree.
    plain = targeted.objective.weight_D
    stops = np.cumsum([n, *targeted.corpus.tree.level_sizes])
    for start, stop in zip([0, *stops], stops, strict=False):
        assert weighted.weight_D[start:stop].sum() == pytest.approx(plain[start:stop].sum(), 0.01)


@pytest.mark.parametrize("mode", [{}, {"exact_rows": 0, "pool_rows": 200}])
def test_the_core_set_comes_from_the_targets_cluster(target_pool, targeted, branch, mode):
    picked = pick(target_pool, targeted, config_of(size=K, **mode))
    assert np.isin(picked.index, branch).mean() > 0.8
    assert len(branch) < 0.4 * N


def test_it_is_lazy_greedy_under_these_weights(target_pool, targeted, weighted):
    greedy = lazy_greedy(targeted.rows, weighted, Budget(rows=K), 0)
    picked = pick(target_pool, targeted, config_of(size=K))
    assert picked.index.tolist() == greedy.picks.tolist()
    assert picked.gains.tolist() == greedy.gains.tolist()
