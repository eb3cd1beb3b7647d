"""Exchange mode: the same for any workers, f never falls, and as good as lazy greedy."""

import logging
import re
from contextlib import suppress

import numpy as np
import pytest
from selections import config_of, pick, settings_of

from mads_ray.errors import ConfigError
from mads_ray.pipeline.select import rank
from mads_ray.pipeline.select.scores import compare_with_random
from mads_ray.pipeline.select.stage import open_workers, select
from mads_ray.pipeline.select.workers import BESIDE
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import UNIT
from mads_ray.submodular.problem import Budget, Problem

N, K = 4000, 600
HOW = {"size": K, "exact_rows": 0, "buffer_rows": 600}
SPREAD_32 = (tuple(range(0, 32, 3)), tuple(i for i in range(32) if i % 3))
LINE = re.compile(
    r"select: round (\d+), (start at random|shards|exchange): f ([\d,]+), ([\d.]+)% above random, "
    r"lift (not bounded yet|>= [\d.]+), ([\d,]+) swaps, [\d.]+ s"
)


@pytest.fixture(scope="module")
def chosen(workers, zipf):
    """(what was picked, the progress lines)."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("mads_ray")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        return pick(workers, zipf(8), config_of(**HOW)), lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@pytest.fixture(scope="module")
def picked(chosen):
    return chosen[0]


@pytest.fixture(scope="module")
def greedy(zipf):
    """f of lazy greedy after every pick, up to 15%."""
    setup = zipf(8)
    return np.cumsum(lazy_greedy(setup.rows, Problem(setup.objective, Budget(rows=K))).gains)


@pytest.fixture(scope="module")
def random_f(zipf):
    setup, rng = zipf(8), np.random.default_rng(1)

    def mean(size):
        return np.mean([setup.value(rng.permutation(N)[:size]) for _ in range(20)])

    return mean


@pytest.mark.parametrize(
    "spread",
    [
        ((0, 2, 4, 6), (1, 3, 5, 7)),  # once more in the same workers
        (tuple(range(8)),),
        ((5,), (7, 0, 3, 2), (6, 1, 4)),
    ],
)
def test_the_workers_do_not_matter(workers_of, zipf, picked, spread):
    again = pick(workers_of(*spread), zipf(8), config_of(**HOW))
    assert again.same(picked)
    assert again.exchange.rounds == picked.exchange.rounds
    assert again.exchange.bound == picked.exchange.bound
    assert again.ranked.marks_M.tolist() == picked.ranked.marks_M.tolist()
    assert (again.ranked.counts_MD == picked.ranked.counts_MD).all()


def test_the_stage_as_a_whole_gives_the_same_set(ray_local, zipf, picked):
    core = select(config_of(workers=2, **HOW), zipf(8).ground)
    assert core.mode == "exchange"
    assert core.places_K2.tolist() == picked.ranked.places_K2.tolist()
    assert core.gains_K.tolist() == (picked.gains / UNIT).tolist()
    assert core.metrics["rounds"] == picked.exchange.rounds > 2
    assert core.metrics["lift"] is None


def test_there_is_room_for_the_tasks_beside_the_workers(ray_local, zipf):
    """Workers that took the three CPUs of this Ray would wait for the first task for ever."""
    with suppress(ConfigError), open_workers(settings_of(workers=3), zipf(8).ground) as workers:
        assert len(workers.actors) == 3
        task = ray_local.remote(num_cpus=BESIDE)(lambda: "done").remote()
        assert ray_local.get(task, timeout=10) == "done"


def test_the_set_has_its_size_and_no_row_twice(picked):
    assert len(picked.index) == K == len(set(picked.uids))
    assert picked.exchange.now.rows == K


def test_the_gains_add_up_to_f_recomputed_from_the_ids(picked, zipf):
    assert int(picked.gains.sum()) == zipf(8).value(picked.index) == picked.exchange.now.f


def test_the_tokens_are_those_of_the_rows(picked, zipf):
    tokens = zipf(8).rows.tokens_N[picked.index]
    assert picked.ranked.tokens_K.tolist() == tokens.tolist()
    assert picked.exchange.now.tokens == tokens.sum()


def test_every_prefix_is_counted(picked, zipf):
    setup, ranked = zipf(8), picked.ranked
    assert {40, 80, 200, 400} < set(ranked.marks_M.tolist())
    assert ranked.marks_M[-1] == K
    for mark, counts in zip(ranked.marks_M, ranked.counts_MD, strict=True):
        prefix = picked.index[:mark]
        assert (counts == setup.objective.counts(setup.rows, prefix)).all()
        assert picked.gains[:mark].sum() == setup.value(prefix)


def test_f_never_falls_and_every_round_is_told(chosen):
    found = [LINE.fullmatch(line) for line in chosen[1] if line.startswith("select: round")]
    assert all(found)
    told = [m.groups() for m in found]
    assert [int(t[0]) for t in told] == list(range(len(told)))
    assert told[0][1] == "start at random"
    kinds = [t[1] for t in told[1:]]
    assert kinds == sorted(kinds, reverse=True)  # passes over the shards, then exchanges
    assert len(set(kinds)) == 2
    f, above = ([float(t[i].replace(",", "")) for t in told] for i in (2, 3))
    assert f == sorted(f)
    assert above[0] == 0.0
    assert above == sorted(above)
    assert {t[4] for t in told if t[1] != "exchange"} == {"not bounded yet"}
    bounded = [float(t[4].removeprefix(">= ")) for t in told if t[1] == "exchange"]
    assert bounded == sorted(bounded)
    assert 0.8 < bounded[-1] < 1
    swaps = [int(t[5].replace(",", "")) for t in told]
    assert swaps[0] == 0 < swaps[1]


@pytest.mark.parametrize("shards", [8, 32])
@pytest.mark.parametrize(("fraction", "buffer_rows"), [(0.01, 16_384), (0.05, 600), (0.15, 600)])
def test_it_is_as_good_as_lazy_greedy_and_better_than_a_tree(
    workers_of, zipf, greedy, random_f, shards, fraction, buffer_rows
):
    """Measured: at least 0.99 of lazy greedy, the plain two-level tree 0.63 to 0.98."""
    setup, size = zipf(shards), int(fraction * N)
    workers = workers_of(*SPREAD_32) if shards == 32 else workers_of((0, 2, 4, 6), (1, 3, 5, 7))
    config = config_of(fraction=fraction, exact_rows=0, buffer_rows=buffer_rows)
    found = pick(workers, setup, config)
    best, zero = greedy[size - 1], random_f(size)
    assert len(found.index) == size
    lift = (found.gains.sum() - zero) / (best - zero)
    assert lift > 0.97
    assert lift > (two_level(setup, size) - zero) / (best - zero) + 0.01
    assert found.exchange.bound >= max(best, found.gains.sum())
    assert found.exchange.lift_at_least() <= 1


def two_level(setup, size):
    """f of shard coverage sets of twice the fair share, united, selected again."""
    shards = setup.places_N2[:, 0]
    share = Budget(rows=-(-2 * size // len(set(shards.tolist()))))
    united = []
    for shard in set(shards.tolist()):
        mine = np.flatnonzero(shards == shard)
        found = lazy_greedy(setup.rows.take(mine), Problem(setup.objective, share))
        united.append(mine[found.picks])
    rows = setup.rows.take(np.concatenate(united))
    return lazy_greedy(rows, Problem(setup.objective, Budget(rows=size))).gains.sum()


def test_a_set_that_is_ranked_by_halves_is_the_same_set(workers, zipf, picked, greedy, monkeypatch):
    setup = zipf(8)
    monkeypatch.setattr(rank, "AT_ONCE", 100)  # halves of 300, 150 and 75 rows
    monkeypatch.setattr(rank, "PIECE", 60)
    halved = pick(workers, setup, config_of(**HOW))
    assert sorted(halved.uids) == sorted(picked.uids)
    assert halved.uids != picked.uids
    assert halved.gains.sum() == picked.gains.sum()
    for mark, counts in zip(halved.ranked.marks_M, halved.ranked.counts_MD, strict=True):
        prefix = halved.index[:mark]
        assert (counts == setup.objective.counts(setup.rows, prefix)).all()
        assert halved.gains[:mark].sum() == setup.value(prefix)
        if mark >= 40:
            assert halved.gains[:mark].sum() > 0.98 * greedy[mark - 1]


def test_the_same_set_ranked_by_halves_in_other_workers(workers_of, zipf, monkeypatch):
    monkeypatch.setattr(rank, "AT_ONCE", 100)
    monkeypatch.setattr(rank, "PIECE", 60)
    spreads = (tuple(range(8)),), ((5,), (7, 0, 3, 2), (6, 1, 4))
    first, second = (pick(workers_of(*s), zipf(8), config_of(**HOW)) for s in spreads)
    assert first.same(second)


def test_what_is_certified_of_the_prefixes_is_true(workers, zipf, picked, greedy):
    """lift_at_least is below the lift against lazy greedy, certified_ratio below f's ratio."""
    problem = picked.exchange.problem
    found = compare_with_random(workers, problem, picked.ranked, N, sets=20)
    assert [p["size"] for p in found.prefixes] == [40, 80, 200, 400]
    for p in [*found.prefixes, found.metrics | {"size": K}]:
        best = greedy[p["size"] - 1] / UNIT
        f, zero = zipf(8).value(picked.index[: p["size"]]) / UNIT, p["f_random_mean"]
        assert p["f"] == pytest.approx(f)
        assert p["lift_at_least"] <= (f - zero) / (best - zero)
        assert 0 < p["certified_ratio"] <= f / best
    assert found.metrics["opt_upper_bound"] >= greedy[K - 1] / UNIT
    assert found.metrics["lift_at_least"] > 0.97
    assert found.curve["core"] == sorted(found.curve["core"])
    assert found.curve["sizes"][-1] == K
