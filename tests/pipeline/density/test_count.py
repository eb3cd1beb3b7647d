"""The density of a pool through the pipeline: the same for any shards, and with a base core set."""

import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from in_process import in_this_process
from selections import config_of, make_run

from mads_ray import FinishedRun, explain, select
from mads_ray.clustering import landmarks as module
from mads_ray.clustering.density import PoolDensity, length_bins
from mads_ray.clustering.landmarks import Landmarks, directions_of
from mads_ray.hashing import uid_words
from mads_ray.states import read_matrix

pytestmark = pytest.mark.usefixtures("in_process_module")

SIZE = 90


def crowded(neurons, sketches):
    """Every second row is of one template, the rest of some 60 kinds."""
    rng = np.random.default_rng(0)
    n, size = sketches.shape
    axis, sign = rng.integers(1, size, n), rng.choice([-1, 1], n)
    axis[::2] = 0
    sign[::2] = 1
    spread = np.where(axis == 0, 0.15, 0.05)  # else k-means would give it few clusters anyway
    x = np.eye(size)[axis] * sign[:, None] + spread[:, None] * rng.normal(size=(n, size))
    sketches[:] = x / np.linalg.norm(x, axis=1, keepdims=True)


def run_of(root, name, shards, edit=None, states=None, **selection):
    folder = make_run(root / f"{name}-states", 900, shards, edit=edit) if states is None else states
    config = config_of(root / name, size=SIZE, **{"balance": 1} | selection)
    return FinishedRun.open(select(config, folder.root).output)


@pytest.fixture(scope="module")
def eight(tmp_path_factory, in_process_module):
    return run_of(tmp_path_factory.mktemp("eight"), "run", 8, crowded)


def table(run):
    return run.result().selection().sort_by("uid")


def core_set(run):
    return b"".join(p.read_bytes() for p in sorted(run.folder.core_set.iterdir()))


def test_like_counts_all_rows_of_the_pool_by_hand(eight):
    parts = [pq.read_table(s.states, columns=["uid", "sketch"]) for s in eight.states.shards]
    uids = [u for p in parts for u in p.column("uid").to_pylist()]
    x = np.concatenate([directions_of(read_matrix(p, "sketch")) for p in parts]).astype(int)
    dot, squares = x @ x.T, (x**2).sum(1)
    near = dot > module.ALIKE * np.sqrt(squares[:, None] * squares[None, :])
    wanted = dict(zip(uids, near.sum(1).tolist(), strict=True))
    found = table(eight)
    assert dict(zip(found["uid"].to_pylist(), found["like"].to_pylist(), strict=True)) == wanted
    assert max(wanted.values()) > 400


@pytest.mark.parametrize("shards", [1, 64])
def test_shards_make_no_difference(eight, tmp_path, shards):
    other = run_of(tmp_path, "run", shards, crowded)
    assert core_set(other) == core_set(eight)
    assert table(other).equals(table(eight))
    assert other.summary["density"] == eight.summary["density"]


@pytest.mark.parametrize("exact", [True, False])
def test_workers_make_no_difference(eight, tmp_path, exact):
    """Of summaries and exchange too."""
    found = set()
    for workers in (1, 3, 8):
        how = {"workers": workers, "exact_rows": 900 if exact else 0, "buffer_rows": 200}
        config = config_of(tmp_path / str(workers), size=SIZE, balance=1, **how)
        clustering = config.clustering.model_copy(update={"exact_rows": 900 if exact else 0})
        config = config.model_copy(update={"clustering": clustering})
        with in_this_process(cpus=8):
            found.add(core_set(FinishedRun.open(select(config, eight.states.folder.root).output)))
    assert len(found) == 1


def test_a_sample_of_landmarks_does_not_depend_on_shards_either(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LANDMARKS", 120)
    first, second = (run_of(tmp_path, f"run-{s}", s, crowded) for s in (3, 20))
    assert core_set(first) == core_set(second)
    told = first.summary["density"]
    assert told == second.summary["density"]
    assert 80 < told["landmarks"] < 160
    assert told["rows"] == 900
    assert told["places"][0]["share"] == pytest.approx(0.5, abs=0.15)
    assert set(table(first)["like"].to_pylist()) > {1}


@pytest.mark.parametrize("whole", [True, False])
def test_balance_thins_the_template_and_keeps_lengths(tmp_path, whole):
    states = make_run(tmp_path / "states", 900, 8, edit=crowded)
    pool = pq.read_table(sorted(states.states.glob("part-*.parquet")), columns=["uid", "n_tokens"])
    taken = {}
    for balance in (0.0, 0.5, 1.0):
        how = {"balance": balance, "weights": "pool", "tree_share": 2.0}
        config = config_of(tmp_path / str(balance), size=SIZE, **how)
        clustering = config.clustering.model_copy(update={"exact_rows": 900 if whole else 0})
        config = config.model_copy(update={"clustering": clustering})
        run = FinishedRun.open(select(config, states.root).output)
        place = run.summary["density"]["places"][0]
        assert place["share"] == pytest.approx(0.5, abs=0.05)
        taken[balance] = place["share_core_set"]
        rows = table(run)
        mean = np.mean(rows.filter(rows["rank"].is_valid())["n_tokens"].to_numpy())
        assert mean == pytest.approx(np.mean(pool["n_tokens"].to_numpy()), rel=0.35)
    assert taken[0.0] > taken[0.5] > taken[1.0]
    assert taken[1.0] < 0.25


def test_weights_in_the_files_even_out_lengths(eight):
    pool = PoolDensity.load(eight.folder.density)
    weights, tokens = [], []
    for shard in eight.states.shards:
        of_shard = pq.read_table(shard.states, columns=["n_tokens"]).column("n_tokens").to_numpy()
        weights.append(pool.weights(shard.shard, of_shard))
        tokens.append(of_shard)
    bins, weights = length_bins(np.concatenate(tokens)), np.concatenate(weights)
    for b in np.unique(bins):
        assert weights[bins == b].mean() == pytest.approx(4096, rel=0.01)


def test_stored_counts_are_used_again_and_made_again_where_they_must(eight, tmp_path, monkeypatch):
    states = eight.states.folder
    first = run_of(tmp_path, "run", 0, states=states)
    made = []
    count = Landmarks.count_alike
    monkeypatch.setattr(
        Landmarks, "count_alike", lambda *a: made.append(0) or count(*a), raising=True
    )
    config = config_of(tmp_path / "run", size=SIZE + 1, balance=1)
    again = FinishedRun.open(select(config, states.root, overwrite=True).output)
    assert not made
    assert again.summary["density"]["places"][0]["share"] == pytest.approx(0.5, abs=0.05)
    assert first.folder.root == again.folder.root
    select(config_of(tmp_path / "run", size=SIZE, balance=0.5), states.root, overwrite=True)
    assert len(made) == len(eight.states.shards)
    made.clear()
    # a process was killed between two files
    (tmp_path / "run" / "density" / "pool.json").unlink()
    select(config_of(tmp_path / "run", size=SIZE, balance=1), states.root, overwrite=True)
    assert len(made) == len(eight.states.shards)


def test_rows_of_a_base_count_with_the_pool(eight, tmp_path):
    """A row like many of the base has more like it than in its own pool."""
    base = run_of(tmp_path, "base", 4, crowded, balance=0.0, weights="pool", tree_share=2.0)
    other = make_run(tmp_path / "other-states", 600, 5, seed=7)
    alone = run_of(tmp_path, "alone", 0, states=other)
    extended = run_of(tmp_path, "extended", 0, states=other, base_core_set=str(base.folder.root))
    picks = table(base).filter(table(base)["rank"].is_valid())["uid"].to_pylist()
    parts = [pq.read_table(s.states, columns=["uid", "sketch"]) for s in base.states.shards]
    x_of = {
        u: x
        for p in parts
        for u, x in zip(
            p.column("uid").to_pylist(), directions_of(read_matrix(p, "sketch")), strict=True
        )
    }
    marks = Landmarks(
        np.stack(uid_words(picks), axis=1),
        np.stack([x_of[u] for u in picks]),
        np.full((len(picks), 2), -1, np.int32),
    )
    for shard in extended.states.shards:
        sketches = read_matrix(pq.read_table(shard.states, columns=["sketch"]), "sketch")
        more = marks.count_alike(shard.shard, directions_of(sketches))
        before, after = (
            pq.read_table(r.folder.selection_file(shard.shard))["like"].to_numpy()
            for r in (alone, extended)
        )
        assert (after - before).tolist() == more.tolist()
    assert extended.summary["density"]["rows"] == 600 + SIZE
    assert extended.summary["density"]["kinds"] < alone.summary["density"]["kinds"]


def test_a_base_from_the_same_pool_counts_once(eight, tmp_path):
    root = str(eight.folder.root)
    more = run_of(tmp_path, "more", 0, states=eight.states.folder, base_core_set=root)
    assert table(more)["like"].to_pylist() == table(eight)["like"].to_pylist()
    assert more.summary["density"]["rows"] == 900


def test_the_terminal_says_that_a_pool_repeats_itself(eight, tmp_path, caplog):
    states = eight.states.folder
    with caplog.at_level(logging.INFO, "mads_ray"):
        run_of(tmp_path, "crowded", 0, states=states)
        assert "% of this corpus are rows like one another" in caplog.text
        caplog.clear()
        run_of(tmp_path, "plain", 4)
        assert "like one another" not in caplog.text
        assert "kinds of rows in 900" in caplog.text


def test_a_pool_of_few_kinds_is_told_too(tmp_path, caplog):
    def few(neurons, sketches):
        sketches[:] = np.eye(sketches.shape[1])[np.arange(len(sketches)) % 6]

    with caplog.at_level(logging.WARNING, "mads_ray"):
        run = run_of(tmp_path, "few", 3, few)
    assert "few kinds of rows, about 6" in caplog.text
    assert run.summary["density"]["kinds"] == pytest.approx(6)
    assert run.summary["density"]["kinds_core_set"] == pytest.approx(6)


def test_report_and_run_json_show_dense_places(eight):
    data = json.loads(eight.folder.report_data.read_text(encoding="utf-8"))["density"]
    told, html = eight.summary["density"], eight.folder.report_html.read_text(encoding="utf-8")
    assert [p["share"] for p in data["places"]] == [p["share"] for p in told["places"]]
    assert len(told["places"][0]["rows"]) == 3
    by_uid = {r["uid"]: r for r in table(eight).to_pylist()}
    place = told["places"][0]
    assert all(by_uid[u]["like"] > 300 for u in place["rows"])
    for row in data["places"][0]["rows"]:
        assert row["prompt"] == f"Question {by_uid[row['uid']]['source_row']}?"
        assert row["prompt"] in html
    assert f"{place['share'] * 100:.1f}%" in html
    assert 0 < told["kinds_random"] < told["kinds"]
    assert told["kinds_core_set"] <= told["kinds"]


def test_explain_says_how_many_rows_are_like_it(eight):
    row = max(table(eight).to_pylist(), key=lambda r: r["like"])
    found = explain(eight.folder.root, row["uid"])
    assert found.like == row["like"]
    assert f"{row['like'] - 1:,} other rows are like it" in found.text()


def test_a_run_from_before_there_was_a_balance_loads_as_0(eight, tmp_path):
    summary = json.loads(eight.folder.run_json.read_text(encoding="utf-8"))
    del summary["config"]["selection"]["balance"]
    old = FinishedRun(eight.folder, summary)
    assert old.config.selection.balance == 0
    assert any("balance" in line for line in old.differences(eight.config, eight.states.folder))
