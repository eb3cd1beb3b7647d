"""Many shards select at the same time against the same counts, and may get in each other's way.

A wave holds one shard of those of the other tests; here it holds all eight, or a third of them.
"""

import numpy as np
import pytest
from selections import config_of, pick

from mads_ray.pipeline.select import exchange
from mads_ray.pipeline.select.ground_set import Settings
from mads_ray.pipeline.select.stage import open_workers
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.totals import Totals

N, K = 4000, 600
HOW = {"exact_rows": 0, "buffer_rows": 600}
waves = pytest.mark.parametrize("number", [1, 3])


@waves
def test_the_set_is_whole_and_the_same_for_any_workers(workers_of, zipf, monkeypatch, number):
    monkeypatch.setattr(exchange, "WAVES", number)
    setup, config = zipf(8), config_of(size=K, **HOW)
    spreads = ((0, 2, 4, 6), (1, 3, 5, 7)), ((5,), (7, 0, 3, 2), (6, 1, 4))
    first, second = (pick(workers_of(*spread), setup, config) for spread in spreads)
    assert first.same(second)
    assert len(set(first.uids)) == K
    assert first.gains.sum() == setup.value(first.index) == first.exchange.now.f
    greedy = lazy_greedy(setup.rows, Problem(setup.objective, Budget(rows=K))).gains.sum()
    started = first.exchange.started
    assert (first.gains.sum() - started) / (greedy - started) > 0.97


def test_a_wave_that_lowers_f_is_not_kept(workers, zipf, monkeypatch):
    """Where each shard fills the same few gaps, all of them together fill them too often."""
    monkeypatch.setattr(exchange, "WAVES", 1)
    asked, rejected = [], []
    reselect, plus = type(workers).reselect, Totals.plus

    def noted(self, depth, shards, *args):
        asked.append(len(shards))
        return reselect(self, depth, shards, *args)

    def compared(self, delta, objective):
        after = plus(self, delta, objective)
        rejected.append(after.f <= self.f)
        return after

    monkeypatch.setattr(type(workers), "reselect", noted)
    monkeypatch.setattr(Totals, "plus", compared)
    picked = pick(workers, zipf(8), config_of(size=40, **HOW))
    assert asked[0] == 8
    assert rejected[1]  # the first delta is the random start
    assert asked[1] == 4
    assert picked.gains.sum() == zipf(8).value(picked.index) == picked.exchange.now.f


@waves
def test_tokens_are_not_exceeded(workers, zipf, monkeypatch, number):
    """The spare tokens are shared among the shards of a wave."""
    monkeypatch.setattr(exchange, "WAVES", number)
    setup = zipf(8)
    tokens = int(setup.rows.tokens_N.sum() // 10)
    picked = pick(workers, setup, config_of(token_budget=tokens, **HOW))
    assert 0.98 * tokens < setup.rows.tokens_N[picked.index].sum() <= tokens
    assert picked.gains.sum() == setup.value(picked.index)


def test_bounds_hold(in_process, zipf, monkeypatch):
    """What a floor or a cap still leaves is shared among the shards of a wave, too."""
    monkeypatch.setattr(exchange, "WAVES", 1)
    setup = zipf(8)
    available = np.bincount(setup.leaves)
    config = config_of(size=K, floor_per_cluster=7, cap_per_cluster=12, **HOW)
    with open_workers(Settings.of(config), setup.ground) as workers:
        picked = pick(workers, setup, config)
    found = np.bincount(setup.leaves[picked.index], minlength=len(available))
    assert len(picked.index) == K
    assert (found >= np.minimum(7, available)).all()
    assert found.max() <= 12
    assert picked.gains.sum() > 1.01 * picked.exchange.started
