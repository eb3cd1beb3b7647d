"""Floors and caps of clusters and of sources, in both modes."""

import numpy as np
import pytest
from selections import FILES, config_of, file_of, pick, settings_of

from mads_ray.config import SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.pipeline.select.stage import open_workers

pytestmark = pytest.mark.usefixtures("in_process_module")

N, K, MANY = 1200, 300, 10**6
MODES = {"exact": {}, "exchange": {"exact_rows": 0, "buffer_rows": 300}}
FREE = {"cap_per_cluster": MANY, "cap_per_source": MANY}  # both partitions, without a bound
both = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def bounded_workers(in_process_module, small):
    """A worker that knows every row's cluster and source."""
    with open_workers(settings_of(**FREE), small(4).ground) as workers:
        yield workers


@pytest.fixture(scope="module")
def clusters(small):
    """Cluster of every row."""
    return small(4).leaves


@pytest.fixture(scope="module")
def sources():
    """Number of every row's file."""
    return np.array([FILES.index(file_of(i)) for i in range(N)])


def sizes(group_of, index=None):
    return np.bincount(group_of if index is None else group_of[index], minlength=group_of.max() + 1)


def picked_with(bounded_workers, small, mode, **bounds):
    picked = pick(bounded_workers, small(4), config_of(**{"size": K} | MODES[mode] | FREE | bounds))
    assert picked.exact == (mode == "exact")
    assert len(set(picked.uids)) == len(picked.uids)
    assert picked.gains.sum() == small(4).value(picked.index)
    return picked.index


@both
def test_without_a_bound_nothing_is_even(bounded_workers, small, clusters, sources, mode):
    """So that the bounds of the other tests bind."""
    index = picked_with(bounded_workers, small, mode)
    assert sizes(clusters, index).min() < 3
    assert sizes(clusters, index).max() > 8
    assert sizes(sources, index).min() < 60
    assert sizes(sources, index).max() > 180


@both
def test_a_floor_of_clusters(bounded_workers, small, clusters, mode):
    """A cluster with fewer rows than the floor gives all it has."""
    index = picked_with(bounded_workers, small, mode, floor_per_cluster=4)
    assert len(index) == K
    floor = np.minimum(4, sizes(clusters))
    assert floor.min() < 4
    assert (sizes(clusters, index) >= floor).all()


@both
def test_a_cap_of_clusters(bounded_workers, small, clusters, mode):
    index = picked_with(bounded_workers, small, mode, cap_per_cluster=6)
    assert len(index) == K
    assert sizes(clusters, index).max() == 6


@both
def test_a_floor_and_a_cap_that_leave_no_choice(bounded_workers, small, clusters, mode):
    index = picked_with(
        bounded_workers, small, mode, floor_per_cluster=3, cap_per_cluster=3, size=N
    )
    assert sizes(clusters, index).tolist() == np.minimum(3, sizes(clusters)).tolist()


@both
def test_floors_and_caps_of_sources(bounded_workers, small, sources, mode):
    index = picked_with(bounded_workers, small, mode, floor_per_source=80, cap_per_source=120)
    found = sizes(sources, index)
    assert len(index) == K
    assert found.min() >= 80
    assert found.max() <= 120
    even = picked_with(bounded_workers, small, mode, floor_per_source=100, cap_per_source=100)
    assert sizes(sources, even).tolist() == [100] * 3


@both
def test_bounds_of_clusters_and_of_sources_together(
    bounded_workers, small, clusters, sources, mode
):
    index = picked_with(bounded_workers, small, mode, cap_per_cluster=7, floor_per_source=60)
    assert len(index) == K
    assert sizes(clusters, index).max() == 7
    assert sizes(sources, index).min() >= 60


@both
def test_two_partitions_that_greedy_does_not_reconcile_are_refused(bounded_workers, small, mode):
    """Some small clusters have rows of the largest file alone, which reaches its cap early. Two
    partitions are no matroid: greedy may run into a corner, but never past a bound."""
    with pytest.raises(ConfigError, match="cannot be met together"):
        picked_with(bounded_workers, small, mode, floor_per_cluster=2, cap_per_source=160)


@both
def test_caps_under_a_budget_in_tokens(bounded_workers, small, clusters, mode):
    setup = small(4)
    tokens = int(setup.rows.tokens_N.sum() // 5)
    config = config_of(token_budget=tokens, **MODES[mode], **FREE | {"cap_per_cluster": 6})
    index = pick(bounded_workers, setup, config).index
    assert sizes(clusters, index).max() == 6
    assert setup.rows.tokens_N[index].sum() <= tokens


@both
def test_caps_below_the_budget_leave_it_unspent(bounded_workers, small, sources, mode):
    index = picked_with(bounded_workers, small, mode, cap_per_source=50)
    assert sizes(sources, index).tolist() == [50] * 3


def test_bounds_cost_little(bounded_workers, small):
    free, bounded = (
        pick(bounded_workers, small(4), config_of(size=K, **MODES["exchange"], **FREE | more))
        for more in ({}, {"floor_per_cluster": 3, "cap_per_cluster": 10})
    )
    assert 0.97 * free.gains.sum() < bounded.gains.sum() <= bounded.exchange.bound


@both
@pytest.mark.parametrize(
    "bounds",
    [
        {"floor_per_cluster": 5},  # some 64 clusters
        {"floor_per_source": 120},
    ],
)
def test_floors_above_the_budget_are_refused(bounded_workers, small, mode, bounds):
    with pytest.raises(ConfigError, match="floors need more examples than the budget has"):
        picked_with(bounded_workers, small, mode, **bounds)


@both
def test_a_floor_above_its_cap_is_refused(bounded_workers, small, mode):
    with pytest.raises(ConfigError, match="a floor of 5 is above the cap of 3"):
        picked_with(bounded_workers, small, mode, floor_per_cluster=5, cap_per_cluster=3)


@pytest.mark.parametrize("floor", ["floor_per_cluster", "floor_per_source"])
def test_floors_under_a_budget_in_tokens_are_refused(floor):
    with pytest.raises(ValueError, match="floors need a budget in examples"):
        SelectionConfig(token_budget=900, **{floor: 2})
