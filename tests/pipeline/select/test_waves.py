"""Many shards select at the same time against the same counts, and may get in each other's way.

A wave holds one shard of those of the other tests; here it holds all eight, or a third of them.
"""

import numpy as np
import pytest
from selections import config_of, pick

from mads_ray.pipeline.select import exchange
from mads_ray.pipeline.select import state as chosen
from mads_ray.pipeline.select.stage import open_pool
from mads_ray.submodular.greedy import Budget, lazy_greedy

N, K = 4000, 600
HOW = {"exact_rows": 0, "pool_rows": 600}
waves = pytest.mark.parametrize("number", [1, 3])


@waves
def test_the_set_is_whole_and_the_same_for_any_holders(pool_of, zipf, monkeypatch, number):
    monkeypatch.setattr(exchange, "WAVES", number)
    setup, config = zipf(8), config_of(size=K, **HOW)
    spreads = ((0, 2, 4, 6), (1, 3, 5, 7)), ((5,), (7, 0, 3, 2), (6, 1, 4))
    first, second = (pick(pool_of(*spread), setup, config) for spread in spreads)
    assert first.same(second)
    assert len(set(first.uids)) == K
    assert first.gains.sum() == setup.value(first.index) == first.exchange.now.f
    greedy = lazy_greedy(setup.rows, setup.objective, Budget(rows=K), 0).gains.sum()
    started = first.exchange.started
    assert (first.gains.sum() - started) / (greedy - started) > 0.97


def test_a_wave_that_lowers_f_is_not_kept(pool, zipf, monkeypatch):
    """Where each shard fills the same few gaps, all of them together fill them too often."""
    monkeypatch.setattr(exchange, "WAVES", 1)
    asked, rejected = [], []
    reselect, changed = type(pool).reselect, exchange.Chosen.changed

    def noted(self, level, shards, *args):
        asked.append(len(shards))
        return reselect(self, level, shards, *args)

    def compared(self, change, objective):
        after = changed(self, change, objective)
        rejected.append(after.f <= self.f)
        return after

    monkeypatch.setattr(type(pool), "reselect", noted)
    monkeypatch.setattr(chosen.Chosen, "changed", compared)
    picked = pick(pool, zipf(8), config_of(size=40, **HOW))
    assert asked[0] == 8
    assert rejected[1]  # the first change is the random start
    assert asked[1] == 4
    assert picked.gains.sum() == zipf(8).value(picked.index) == picked.exchange.now.f


@waves
def test_tokens_are_not_exceeded(pool, zipf, monkeypatch, number):
    """The spare tokens are shared among the shards of a wave."""
    monkeypatch.setattr(exchange, "WAVES", number)
    setup = zipf(8)
    tokens = int(setup.rows.tokens_N.sum() // 10)
    picked = pick(pool, setup, config_of(tokens=tokens, **HOW))
    assert 0.98 * tokens < setup.rows.tokens_N[picked.index].sum() <= tokens
    assert picked.gains.sum() == setup.value(picked.index)


def test_bounds_hold(in_process, zipf, monkeypatch):
    """What a floor or a cap still leaves is shared among the shards of a wave, too."""
    monkeypatch.setattr(exchange, "WAVES", 1)
    setup = zipf(8)
    available = np.bincount(setup.leaves)
    config = config_of(size=K, floor_per_cluster=7, cap_per_cluster=12, **HOW)
    with open_pool(config, setup.corpus) as pool:
        picked = pick(pool, setup, config)
    found = np.bincount(setup.leaves[picked.index], minlength=len(available))
    assert len(picked.index) == K
    assert (found >= np.minimum(7, available)).all()
    assert found.max() <= 12
    assert picked.gains.sum() > 1.01 * picked.exchange.started
