"""What a user would select by instead: each method alone, and side by side in the report."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from selections import LAYERS, PER_LAYER, WIDTH, config_of, make_run, pick

from mads_ray import select
from mads_ray.baselines import k_center, length_counts, length_edges
from mads_ray.config import SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.hashing import BASELINE_ORDER, seeded_hash
from mads_ray.pipeline.select import stage
from mads_ray.pipeline.select.methods import baseline_places
from mads_ray.pipeline.select.stage import methods_to_run
from mads_ray.pipeline.select.stage import select as select_stage
from mads_ray.states import read_matrix
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import UNIT
from mads_ray.submodular.problem import Budget, Problem

N, K, BINS = 4000, 300, 20
POOLED = ("random", "length-matched-random", "kmeans", "k-center")
METHODS = ("mads", *POOLED, "raw-topk-union")


@pytest.fixture(scope="module")
def ours(workers, zipf):
    return pick(workers, zipf(8), config_of(size=K)).ranked


@pytest.fixture(scope="module")
def sketches(zipf):
    parts = [
        read_matrix(pq.read_table(s.states, columns=["sketch"]), "sketch")
        for s in zipf(8).ground.states.shards
    ]
    return np.concatenate(parts)


def rows_of(workers, zipf, ours, method, budget=None, seed=0, exact_rows=100_000):
    """Row numbers in the method's order."""
    setup, budget = zipf(8), Budget(rows=K) if budget is None else budget
    problem = Problem(workers.objective, budget, seed=seed)
    how = (setup.ground.states.shards, setup.ground.tree, problem, exact_rows, ours.tokens_K)
    return setup.index(baseline_places(method, workers, *how))


@pytest.mark.parametrize("method", POOLED)
def test_exactly_the_budget_and_the_same_again(workers, workers_of, zipf, ours, method):
    index = rows_of(workers, zipf, ours, method)
    assert len(index) == K == len(set(index.tolist()))
    other = workers_of((5,), (7, 0, 3, 2), (6, 1, 4))
    assert rows_of(other, zipf, ours, method).tolist() == index.tolist()


@pytest.mark.parametrize("method", POOLED)
def test_a_budget_in_tokens_is_kept(workers, zipf, ours, method):
    tokens = zipf(8).rows.tokens_N
    index = rows_of(workers, zipf, ours, method, Budget(tokens=40_000))
    assert 36_000 < tokens[index].sum() <= 40_000


def test_random_is_a_hash_order(workers, zipf, ours):
    uids = zipf(8).uids.tolist()
    for seed in (0, 3):
        order = np.argsort(seeded_hash(uids, seed, BASELINE_ORDER))
        assert rows_of(workers, zipf, ours, "random", seed=seed).tolist() == order[:K].tolist()


def test_kmeans_takes_the_most_typical_row_of_every_cluster_first(workers, zipf, ours, sketches):
    setup = zipf(8)
    leaves, distances = setup.ground.tree.assign(sketches)
    index = rows_of(workers, zipf, ours, "kmeans")
    clusters = len(np.unique(leaves))
    assert clusters <= K
    assert sorted(leaves[index[:clusters]].tolist()) == np.unique(leaves).tolist()
    for i in index[:clusters]:
        assert distances[i] == distances[leaves == leaves[i]].min()


def test_k_center_is_the_traversal_of_all_sketches(workers, zipf, ours, sketches):
    picks, _ = k_center(sketches, K)
    assert rows_of(workers, zipf, ours, "k-center").tolist() == picks.tolist()


def test_k_center_of_many_rows_goes_shard_by_shard(workers, zipf, ours, sketches):
    """Every shard gives its fair share: the traversal of its own sketches."""
    index = rows_of(workers, zipf, ours, "k-center", exact_rows=N - 1)
    shard = zipf(8).places_N2[:, 0]
    assert len(set(index.tolist())) == K
    for s in range(8):
        mine, found = np.flatnonzero(shard == s), index[shard[index] == s]
        assert len(found) in (K // 8, K // 8 + 1)
        assert found.tolist() == mine[k_center(sketches[mine], len(found))[0]].tolist()


def test_length_matched_random_is_as_long_as_ours(workers, zipf, ours):
    tokens = zipf(8).rows.tokens_N
    index = rows_of(workers, zipf, ours, "length-matched-random")
    edges = length_edges(ours.tokens_K, BINS)
    wanted = length_counts(ours.tokens_K, edges)
    assert length_counts(tokens[index], edges).tolist() == wanted.tolist()
    assert tokens[index].mean() == pytest.approx(ours.tokens_K.mean(), rel=0.1)
    assert np.isin(index, zipf(8).index(ours.places_K2)).mean() < 0.3


# --- side by side ---


def test_the_core_set_is_not_touched_by_a_comparison(compared, small):
    setup = small(4)
    greedy = lazy_greedy(setup.rows, Problem(setup.objective, Budget(rows=120)))
    uids = [r["_mads"]["uid"] for r in compared.rows()]
    assert uids == setup.uids[greedy.picks].tolist()


def test_run_json_has_the_figures_of_every_method(compared, small):
    stored = json.loads((compared.output / "run.json").read_text())
    methods = stored["metrics"]["methods"]
    assert set(methods) == set(METHODS)
    assert all(m["rows"] == 120 for m in methods.values())
    assert methods["mads"]["f"] == max(m["f"] for m in methods.values())
    setup = small(4)
    order = np.argsort(seeded_hash(setup.uids.tolist(), 0, BASELINE_ORDER))[:120]
    counts = setup.objective.counts(setup.rows, order)
    assert methods["random"] == {
        "rows": 120,
        "tokens": setup.rows.tokens_N[order].sum(),
        "f": setup.value(order) / UNIT,
        "neuron_coverage": (counts[: setup.objective.neurons] > 0).mean(),
    }


def test_the_report_has_a_row_of_every_method(compared, small):
    rows = json.loads((compared.output / "report.json").read_text())["methods"]
    assert {r["method"] for r in rows} == set(METHODS)
    figures = compared.metrics["methods"]
    for row in rows:
        assert figures[row["method"]] == {k: row[k] for k in figures[row["method"]]}
    setup, at = small(4), {u: i for i, u in enumerate(small(4).uids)}
    mine = np.array([at[r["_mads"]["uid"]] for r in compared.rows()])
    ours = next(r for r in rows if r["method"] == "mads")
    assert ours["clusters"] == len(np.unique(setup.leaves[mine]))
    assert ours["labels"] == len({r["task"] for r in compared.rows()})
    kmeans = next(r for r in rows if r["method"] == "kmeans")
    assert kmeans["clusters"] == len(np.unique(setup.leaves))
    html = compared.report.read_text(encoding="utf-8")
    assert "Methods side by side" in html
    for row in rows:
        assert f"<tr><td>{row['method']}</td>" in html
        assert f"{row['f']:,.0f}" in html


def test_raw_union_is_greedy_coverage_of_the_raw_neurons(in_process, small):
    """Each neuron counts once, clusters do not: every pick adds as many as any row would."""
    setup = small(4)
    raw = [pq.read_table(s.states, columns=["raw_neurons"]) for s in setup.ground.states.shards]
    neurons = np.concatenate([read_matrix(t, "raw_neurons").astype(int) for t in raw])
    features = neurons + np.repeat(np.arange(LAYERS) * WIDTH, PER_LAYER)
    core = select_stage(config_of(size=40, method="raw-topk-union"), setup.ground)
    assert core.mode == "raw-topk-union"
    index = setup.index(core.places_K2)
    assert len(index) == 40
    every, covered = [set(f) for f in features.tolist()], set()
    for i in index:
        assert len(every[i] - covered) == max(len(f - covered) for f in every)
        covered |= every[i]


def test_a_core_set_of_another_method_keeps_its_order(by_random, small):
    """Its gains are those of the objective, and add up to f."""
    setup = small(4)
    order = np.argsort(seeded_hash(setup.uids.tolist(), 0, BASELINE_ORDER))[:120]
    rows = list(by_random.rows())
    assert [r["_mads"]["uid"] for r in rows] == setup.uids[order].tolist()
    assert sum(r["_mads"]["gain"] for r in rows) == pytest.approx(setup.value(order) / UNIT)
    assert by_random.metrics["f"] == setup.value(order) / UNIT
    assert by_random.metrics["lift"] is None
    stored = json.loads((by_random.output / "run.json").read_text())
    assert stored["mode"] == "random"
    assert set(stored["metrics"]["methods"]) == {"random"}
    assert stored["metrics"]["rounds"] == 0
    assert json.loads((by_random.output / "report.json").read_text())["methods"] == []


@pytest.mark.parametrize(
    ("method", "compare", "expected"),
    [
        ("mads", (), ["mads"]),
        ("random", (), ["random"]),
        ("random", ("kmeans", "mads"), ["random", "kmeans", "mads"]),
        ("raw-topk-union", ("k-center",), ["raw-topk-union", "k-center"]),
        ("length-matched-random", (), ["length-matched-random", "mads"]),
        ("kmeans", ("length-matched-random",), ["kmeans", "length-matched-random", "mads"]),
        ("mads", ("random", "random"), ["mads", "random"]),
    ],
)
def test_mads_runs_where_it_is_asked_for_or_needed(method, compare, expected):
    assert methods_to_run(SelectionConfig(method=method, compare=compare)) == expected


@pytest.mark.parametrize("exact_rows", [0, 10_000])
def test_the_figures_of_a_method_do_not_depend_on_mads(
    ray_local, small, tmp_path, monkeypatch, exact_rows
):
    how = {"size": 90, "method": "kmeans", "exact_rows": exact_rows, "buffer_rows": 300}
    folder = small(4).folder.root
    beside = select(config_of(tmp_path / "beside", compare=("mads",), **how), folder)

    def never(*_):
        raise AssertionError("mads ran")

    monkeypatch.setattr(stage, "_mads", never)
    alone = select(config_of(tmp_path / "alone", **how), folder)
    assert alone.selection().equals(beside.selection())
    figures = {"rounds", "methods"}
    of_alone, of_beside = (
        {k: v for k, v in r.metrics.items() if k not in figures} for r in (alone, beside)
    )
    assert of_alone == of_beside
    assert alone.metrics["methods"] == {"kmeans": beside.metrics["methods"]["kmeans"]}
    assert set(beside.metrics["methods"]) == {"kmeans", "mads"}


def test_raw_union_needs_raw_states(in_process, tmp_path):
    folder = make_run(tmp_path / "r", 60, 2)
    for how in ({"method": "raw-topk-union"}, {"compare": ("raw-topk-union",)}):
        with pytest.raises(ConfigError, match=r"capture with --set capture\.store_raw=true"):
            select(config_of(tmp_path / "o", size=9, **how), folder.root)


def a_seed_with_a_long_first_row(setup):
    for seed in range(50):
        hashes = seeded_hash(setup.uids.tolist(), seed, BASELINE_ORDER)
        first = int(setup.rows.tokens_N[hashes.argmin()])
        if first > 400:
            return seed, first
    raise AssertionError("no such seed")


@pytest.mark.parametrize("how", [{"method": "random"}, {"compare": ("random",)}])
def test_a_first_random_row_that_does_not_fit_is_passed_over(in_process, small, tmp_path, how):
    """As greedy passes over it: some row fits."""
    setup = small(4)
    seed, first = a_seed_with_a_long_first_row(setup)
    config = config_of(tmp_path, seed=seed, token_budget=first - 1, **how)
    figures = select(config, setup.folder.root).metrics["methods"]["random"]
    assert figures["rows"] > 0
    assert figures["tokens"] < first
