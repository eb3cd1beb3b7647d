"""Random draws and their cuts against the order of all hashes in one place."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selections import config_of, make_run, pick, setup_of, started_workers

from mads_ray.hashing import seeded_hash
from mads_ray.pipeline.select.random_sets import hash_thresholds, random_set_counts

few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
STREAMS = [(0, 1), (0, 2**33), (7, 5)]


def hashes_of(setup, stream):
    return seeded_hash(setup.uids.tolist(), *stream)


def costs_of(setup, by_cost):
    tokens = setup.rows.tokens_N.astype(np.int64)
    return tokens if by_cost else np.ones_like(tokens)


def fitting(setup, stream, cost, by_cost):
    """Row numbers of the longest start of the order that the cost allows."""
    order = np.argsort(hashes_of(setup, stream))
    return set(order[np.cumsum(costs_of(setup, by_cost)[order]) <= cost].tolist())


def crowded(setup, stream):
    """Positions in the order at the edges of bins that hold several rows, and inside of them."""
    top = np.sort(hashes_of(setup, stream)) >> np.uint64(48)
    same = np.flatnonzero(top[1:] == top[:-1])
    return sorted({*(same - 1).tolist(), *same.tolist(), *(same + 1).tolist()} - {-1})


def check(workers, setup, streams, costs, by_cost):
    costs = np.unique(np.array(costs, np.int64))
    cuts = hash_thresholds(workers, 0, streams, costs, by_cost)
    assert cuts.shape == (len(streams), len(costs))
    for s, stream in enumerate(streams):
        hashes = hashes_of(setup, stream)
        for b, cost in enumerate(costs):
            below = set(np.flatnonzero(hashes <= cuts[s, b]).tolist())
            assert below == fitting(setup, stream, cost, by_cost)


@pytest.mark.parametrize("by_cost", [False, True])
@few
@given(data=st.data())
def test_cuts_are_those_of_the_whole_order(workers, zipf, by_cost, data):
    setup = zipf(8)
    streams = data.draw(st.lists(st.sampled_from(STREAMS), min_size=1, max_size=3, unique=True))
    whole = int(costs_of(setup, by_cost).sum())
    costs = data.draw(st.lists(st.integers(0, whole + 10), min_size=1, max_size=5))
    check(workers, setup, streams, costs, by_cost)


@pytest.mark.parametrize("by_cost", [False, True])
@few
@given(data=st.data())
def test_cuts_at_the_edges_of_bins(workers, zipf, by_cost, data):
    """Costs that end just before, at and after a row of a bin with several rows."""
    setup, stream = zipf(8), STREAMS[0]
    spent = np.cumsum(costs_of(setup, by_cost)[np.argsort(hashes_of(setup, stream))])
    at = data.draw(st.lists(st.sampled_from(crowded(setup, stream)), min_size=1, max_size=4))
    off = data.draw(st.sampled_from([-1, 0, 1]))
    check(workers, setup, [stream], [int(spent[i]) + off for i in at], by_cost)


@pytest.mark.parametrize("by_cost", [False, True])
def test_cuts_of_nothing_and_of_everything(workers, zipf, by_cost):
    setup = zipf(8)
    whole = int(costs_of(setup, by_cost).sum())
    check(workers, setup, STREAMS, [0, 1, whole - 1, whole, whole + 1, 2**62], by_cost)


def test_the_draws_hold_exactly_these_rows(workers, zipf):
    setup, costs = zipf(8), np.array([0, 1, 40, 600, 4000], np.int64)
    counts = workers.sum(
        random_set_counts, STREAMS, hash_thresholds(workers, 0, STREAMS, costs, False)
    )
    for s, stream in enumerate(STREAMS):
        for b, cost in enumerate(costs):
            rows = np.array(sorted(fitting(setup, stream, cost, False)), np.int64)
            assert (counts[s, b] == setup.objective.counts(setup.rows, rows)).all()


@pytest.mark.parametrize("size", [1, 600])
def test_the_exchange_starts_from_such_a_draw(workers, zipf, size):
    setup = zipf(8)
    config = config_of(size=size, exact_rows=0, max_rounds=1, seed=3)
    started = pick(workers, setup, config).exchange.started
    rows = np.array(sorted(fitting(setup, (3, 2**33), size, False)), np.int64)
    assert started == setup.value(rows)


def test_a_handful_of_rows(in_process, tmp_path):
    """Most bins are empty, the first and last ones among them."""
    setup = setup_of(make_run(tmp_path, 9, 3), config_of())
    with started_workers(setup, config_of(), [[2], [0, 1]]) as workers:
        for by_cost in (False, True):
            whole = costs_of(setup, by_cost).sum()
            check(workers, setup, STREAMS, range(0, int(whole) + 9, 1 + 6 * by_cost), by_cost)
