import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mads_ray.hashing import row_ids
from mads_ray.states import read_matrix, states_schema

# A plain import, so that the processes that write shards find the module too.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import synthetic
from synthetic import KINDS, Corpus, labels, make_tables, parents, states, write_states
from synthetic_kernels import alias_tables

LAYERS, WIDTH, PER_LAYER = 3, 512, 24
SHAPE = {"layers": LAYERS, "width": WIDTH, "per_layer": PER_LAYER, "sketch_dim": 32}
ROWS = 6000

both = pytest.mark.parametrize("kind", sorted(KINDS))


def table_of(kind, rows=ROWS, seed=0):
    corpus = Corpus(kind, rows, seed, **SHAPE)
    return corpus, states(corpus, make_tables(corpus), 0, rows)


def overlaps(table, pairs):
    """Share of the first row's neurons that the second has too, one a pair."""
    base = np.repeat(np.arange(LAYERS) * WIDTH, PER_LAYER)
    features = read_matrix(table, "neurons") + base
    return np.array([np.isin(features[a], features[b]).mean() for a, b in pairs])


def pairs_of(keys, limit=500):
    """Neighbours in the order of `keys` that have the same one; negative keys have no pair."""
    order = np.argsort(keys, kind="stable")
    a, b = order[:-1], order[1:]
    same = (keys[a] == keys[b]) & (keys[a] >= 0)
    return list(zip(a[same], b[same], strict=True))[:limit]


@both
def test_same_rows_for_any_number_of_shards_and_processes(kind, tmp_path):
    _, whole = table_of(kind, 700)
    for shards, processes in [(1, 2), (3, 1), (8, 2 if kind == "zipf" else 1)]:
        folder = tmp_path / str(shards)
        paths = write_states(folder, kind, 700, shards, **SHAPE, processes=processes)
        assert [p.name for p in paths] == [f"part-{s:05d}.parquet" for s in range(shards)]
        assert sorted(folder.iterdir()) == paths
        assert pa.concat_tables([pq.read_table(p) for p in paths]).equals(whole)


def test_columns_are_those_of_captured_states():
    _, table = table_of("zipf")
    assert table.schema == states_schema(LAYERS * PER_LAYER, 32, 0, False)
    uids = table.column("uid").to_pylist()
    assert uids == sorted(set(uids))
    assert {len(u) for u in uids} == {32}
    assert table.column("row_id").to_numpy().tolist() == row_ids(uids).tolist()
    assert set(table.column("cut_tokens").to_pylist()) == {0}
    norms = np.linalg.norm(read_matrix(table, "sketch").astype(np.float32), axis=1)
    np.testing.assert_allclose(norms, 1, atol=2e-3)


@both
def test_every_layer_has_distinct_ascending_neurons(kind):
    _, table = table_of(kind)
    neurons = read_matrix(table, "neurons").reshape(ROWS, LAYERS, PER_LAYER).astype(int)
    assert (np.diff(neurons, axis=2) > 0).all()
    assert neurons.max() < WIDTH


@both
def test_near_duplicates_share_most_neurons_in_any_shard(kind):
    corpus, table = table_of(kind)
    label, parent = labels(corpus, 0, ROWS), parents(corpus, 0, ROWS)
    assert (parent >= 0).mean() == pytest.approx(KINDS[kind].duplicates, abs=0.02)
    siblings = pairs_of(np.where(parent >= 0, label * ROWS + parent, -1))
    others = pairs_of(np.where(parent < 0, label, -1))
    shared = overlaps(table, siblings).mean()
    assert KINDS[kind].keep ** 2 < shared < KINDS[kind].keep ** 2 + 0.15
    assert overlaps(table, others).mean() < shared - 0.2
    sketch = read_matrix(table, "sketch").astype(np.float32)
    cosine = {
        n: (sketch[[a for a, _ in p]] * sketch[[b for _, b in p]]).sum(1).mean()
        for n, p in [("siblings", siblings), ("others", others)]
    }
    assert cosine["others"] + 0.15 < cosine["siblings"] < 0.99
    assert any(b - a > ROWS // 2 for a, b in siblings)


@both
def test_popularity_is_zipfian(kind):
    _, table = table_of(kind)
    neurons = read_matrix(table, "neurons").reshape(ROWS, LAYERS, PER_LAYER)
    for layer in range(LAYERS):
        counts = np.sort(np.bincount(neurons[:, layer].ravel(), minlength=WIDTH))[::-1]
        ranks = np.arange(10, WIDTH // 2)
        slope = np.polyfit(np.log(ranks), np.log(counts[ranks]), 1)[0]
        assert -1.5 < slope < -0.5
        assert counts[4] > 5 * counts[WIDTH // 2] > 0


@both
def test_clusters_have_their_shares_and_are_spread_over_the_rows(kind):
    corpus = Corpus(kind, 100_000, **SHAPE)
    half = [np.bincount(labels(corpus, s, s + 50_000), minlength=200) for s in (0, 50_000)]
    expected = corpus.label_shares * 50_000
    for counts in half:
        assert ((counts - expected) ** 2 / expected).sum() < 300  # chi squared, 199 degrees


def test_tokens_are_log_normal_about_200():
    corpus, table = table_of("zipf")
    tokens = table.column("n_tokens").to_numpy()
    assert 8 <= tokens.min() < 30
    assert 800 < tokens.max() <= 2048
    assert tokens.mean() == pytest.approx(200, rel=0.1)
    by_cluster = [np.log(tokens[labels(corpus, 0, ROWS) == c]).mean() for c in range(20)]
    assert 0.15 < np.std(by_cluster) < 0.6


def test_seeds_and_kinds_give_other_rows():
    tables = [table_of(*args)[1] for args in [("zipf", 50, 0), ("zipf", 50, 1), ("skewed", 50, 0)]]
    assert tables[0].equals(table_of("zipf", 50, 0)[1])
    for other in tables[1:]:
        assert not tables[0].column("neurons").equals(other.column("neurons"))
        assert not tables[0].column("sketch").equals(other.column("sketch"))


def test_alias_tables_hold_the_weights():
    weight = np.random.default_rng(0).pareto(1.0, (2, 300)) + 1e-3
    alias = np.empty((2, 300), np.uint32)
    alias_tables(weight, alias)
    chance = (alias >> 16) / 65536
    for layer in range(2):
        held = chance[layer] + np.bincount(alias[layer] & 0xFFFF, 1 - chance[layer], 300)
        np.testing.assert_allclose(held / 300, weight[layer] / weight[layer].sum(), atol=2e-5)


def test_refuses_shapes_that_rejection_is_slow_for():
    with pytest.raises(ValueError, match="per_layer"):
        Corpus("zipf", 10, width=64, per_layer=32)


def test_command_ends_in_one_json_line(tmp_path, monkeypatch, capsys):
    arguments = f"synthetic.py --data skewed --rows 30 --shards 2 --processes 1 --output {tmp_path}"
    monkeypatch.setattr(sys, "argv", arguments.split())
    synthetic.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["rows"], result["shards"]) == (30, 2)
    assert pq.read_schema(tmp_path / "part-00001.parquet") == states_schema(1920, 128, 0, False)
