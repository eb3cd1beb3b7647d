"""The whole pipeline on a real corpus with the real model and a real Ray.

That is the run `finished` and one selection from its states; others run in this process."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from in_process import in_this_process
from resharded import reshard, stored_levels, stored_states
from runs import CAPTURE, config_for, core_bytes

from mads_ray import load_config, run, select
from mads_ray.config import SelectionConfig
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.errors import ConfigError, IncompleteError, MismatchError
from mads_ray.pipeline.ingest import find_input
from mads_ray.run_folder import RunFolder
from mads_ray.runlog import read_log
from mads_ray.states import StatesManifest


@pytest.fixture(scope="module")
def source_rows(small_corpus):
    files = discover([str(small_corpus)]).files
    return {f"{f.path}:{row.index}": row for f in files for row in read_rows(f)}


def test_every_row_is_accounted_for(finished, source_rows):
    counts = finished.counts
    assert counts.read == len(source_rows)
    assert counts.read == counts.quarantined + counts.duplicates + counts.examples
    assert counts.quarantined > 0
    assert counts.duplicates > 0
    assert counts.selected == int(0.2 * counts.examples)
    stored = json.loads((finished.output / "run.json").read_text())
    assert stored["counts"]["examples"] == counts.examples
    assert stored["files"] == {"read": 3, "left_out": [], "lost": []}
    quarantine = pq.read_table(finished.output / "quarantine").to_pylist()
    assert len(quarantine) == counts.quarantined
    assert all(q["reason"] and q["message"] and Path(q["source_file"]).exists() for q in quarantine)


def test_run_json_and_the_report_tell_how_rows_were_read(finished):
    stored = json.loads((finished.output / "run.json").read_text())
    reading, counts = stored["reading"], finished.counts
    assert json.loads((finished.output / "report.json").read_text())["reading"] == reading
    assert sum(r["count"] for r in reading["reasons"]) == counts.quarantined
    quarantine = pq.read_table(finished.output / "quarantine").to_pylist()
    reasons = Counter(q["reason"] for q in quarantine)
    assert (
        sum((Counter({r["reason"]: r["count"]}) for r in reading["reasons"]), Counter()) == reasons
    )
    assert sum(reading["schemas"].values()) == counts.examples + counts.duplicates
    html = finished.report.read_text(encoding="utf-8")
    assert all(r["reason"] in html for r in reading["reasons"])
    (event,) = [e for e in read_log(finished.output / "log.jsonl") if e["event"] == "ingested"]
    assert event["schemas"] == reading["schemas"]


def test_the_core_set_is_rows_as_they_came_in(finished, source_rows):
    rows = list(finished.rows())
    assert [r["_mads"]["rank"] for r in rows] == list(range(finished.counts.selected))
    for row in rows:
        mads = row.pop("_mads")
        assert set(mads) == {"uid", "rank", "gain", "cluster", "source"}
        assert row == source_rows[mads["source"]].value
    gains = [g["gain"] for g in (r.get("_mads") or {} for r in finished.rows())]
    assert gains == sorted(gains, reverse=True)
    assert sum(gains) == pytest.approx(finished.metrics["f"])


def test_the_selection_lists_every_example(finished):
    table = finished.selection()
    assert table.num_rows == finished.counts.examples
    assert len(set(table.column("uid").to_pylist())) == table.num_rows
    ranks = sorted(r for r in table.column("rank").to_pylist() if r is not None)
    assert ranks == list(range(finished.counts.selected))
    copies = sum(table.column("copies").to_pylist())
    assert copies == finished.counts.examples + finished.counts.duplicates
    picked = {r["_mads"]["uid"]: r["_mads"] for r in finished.rows()}
    for row in table.to_pylist():
        if row["rank"] is not None:
            mads = picked[row["uid"]]
            assert (row["rank"], row["gain"], row["cluster"]) == (
                mads["rank"],
                mads["gain"],
                mads["cluster"],
            )
            assert mads["source"] == f"{row['source_file']}:{row['source_row']}"


def test_the_core_set_beats_random_and_its_certificate(finished):
    m = finished.metrics
    assert m["f_random_mean"] < m["f"] <= m["opt_upper_bound"]
    assert m["f"] > m["f_random_mean"] + 2 * m["f_random_std"]
    assert m["neuron_coverage"] > m["neuron_coverage_random"]
    assert m["lift"] == 1.0


def test_the_report_is_one_self_contained_page(finished):
    html = finished.report.read_text(encoding="utf-8")
    assert html.count("<svg") == 3
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "src=" not in html
    assert f"{finished.counts.read} rows read" in html
    assert "--config" in html


def test_a_rerun_captures_nothing_again(finished, small_corpus):
    files = sorted((finished.output / "states").glob("part-*"))
    stamps, before = [p.stat().st_mtime_ns for p in files], core_bytes(finished.output)
    again = run(config_for(small_corpus, finished.output))
    assert [p.stat().st_mtime_ns for p in files] == stamps
    assert core_bytes(finished.output) == before
    assert again.counts == finished.counts


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "org/other"}, "model: stored 'smollm2-135m', wanted 'org/other'"),
        ({"neurons_per_layer": 32}, "neurons_per_layer: stored 64, wanted 32"),
        ({"calibration_rows": 41}, "calibration_rows: stored 40, wanted 41"),
        ({"dtype": "float16"}, "dtype: stored"),
        ({"store_hidden": True}, "store_hidden: stored False, wanted True"),
        ({"sketch_dim": 16}, "sketch_dim: stored 256, wanted 16"),
        ({"revision": "v2"}, "requested_revision: stored None, wanted 'v2'"),
    ],
)
def test_states_of_other_settings_are_refused(finished, small_corpus, change, told):
    changed = config_for(small_corpus, finished.output, capture=CAPTURE.model_copy(update=change))
    with pytest.raises(MismatchError, match="another model or calibration") as e:
        run(changed)
    assert told in str(e.value)


def test_another_corpus_in_the_same_folder_is_refused(finished, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(MismatchError, match=r"new input file: .*x\.jsonl"):
        run(config_for(tmp_path, finished.output))


def test_select_alone_gives_the_prefix_and_run_json_repeats_it(finished, tmp_path):
    smaller = config_for((), tmp_path / "a", input=(), selection=SelectionConfig(fraction=0.1))
    result = select(smaller, states_from=finished.output)
    assert result.counts.selected == int(0.1 * result.counts.examples)
    whole = [r["_mads"]["uid"] for r in finished.rows()]
    assert [r["_mads"]["uid"] for r in result.rows()] == whole[: result.counts.selected]
    repeated = load_config(str(tmp_path / "a" / "run.json"), {"output": str(tmp_path / "b")})
    with in_this_process():
        select(repeated, states_from=finished.output)
    assert core_bytes(tmp_path / "b") == core_bytes(tmp_path / "a")


def test_budgets_by_size_and_tokens(finished, in_process, tmp_path):
    by_size = config_for((), tmp_path / "s", input=(), selection=SelectionConfig(size=7))
    assert select(by_size, finished.output).counts.selected == 7
    by_tokens = config_for(
        (), tmp_path / "t", input=(), selection=SelectionConfig(token_budget=900)
    )
    result = select(by_tokens, finished.output)
    table = result.selection()
    picked = [r["n_tokens"] for r in table.to_pylist() if r["rank"] is not None]
    assert 700 < sum(picked) <= 900
    assert result.metrics["f"] <= result.metrics["opt_upper_bound"]
    nothing_fits = config_for(
        (), tmp_path / "n", input=(), selection=SelectionConfig(token_budget=3)
    )
    with pytest.raises(ConfigError, match="no example fits the budget of 3 tokens"):
        select(nothing_fits, finished.output)
    for seed in range(3):  # the smallest budget, where random draws have least to draw from
        one = config_for((), tmp_path / f"1-{seed}", input=(), seed=seed)
        one = one.model_copy(update={"selection": SelectionConfig(size=1)})
        assert select(one, finished.output).counts.selected == 1
    too_many = config_for((), tmp_path / "x", input=(), selection=SelectionConfig(size=10**6))
    with pytest.raises(ConfigError, match="more than the"):
        select(too_many, finished.output)


def test_parquet_output_holds_the_same_core_set(finished, in_process, tmp_path):
    as_parquet = config_for(
        (),
        tmp_path / "p",
        input=(),
        output_format="parquet",
        selection=SelectionConfig(fraction=0.2),
    )
    select(as_parquet, finished.output)
    table = pq.read_table(tmp_path / "p" / "core_set")
    uids = [m["uid"] for m in table.column("_mads").to_pylist()]
    assert uids == [r["_mads"]["uid"] for r in finished.rows()]


def test_a_folder_of_somebody_else_is_never_touched(small_corpus, tmp_path):
    for name in ("corpus", "core_set", "quarantine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(MismatchError, match="is not empty and holds no run"):
        run(config_for(small_corpus, tmp_path))
    assert len(list(tmp_path.rglob("mine.jsonl"))) == 3


def test_a_folder_in_use_is_refused(finished, small_corpus):
    with RunFolder(finished.output).claim(), pytest.raises(MismatchError, match="another run is"):
        run(config_for(small_corpus, finished.output))


def test_the_output_may_lie_in_the_input_folder(finished, small_corpus, tmp_path):
    shutil.copytree(small_corpus, tmp_path / "in")
    shutil.copytree(finished.output, tmp_path / "in" / "out")
    config = config_for(tmp_path / "in", tmp_path / "in" / "out")
    assert len(find_input(config.input, config.corpus, RunFolder(config.output)).files) == 3


def test_a_torn_states_file_and_a_stale_marker_are_captured_again(finished, tmp_path):
    folder = RunFolder(tmp_path / "copy")
    shutil.copytree(finished.output, folder.root)
    ledger, manifest = folder.load_ledger(), StatesManifest.load(folder.manifest)
    torn, stale = ledger.shards[0].shard, ledger.shards[1].shard
    folder.state_file(torn).write_bytes(folder.state_file(torn).read_bytes()[:-40])
    marker = json.loads(folder.state_marker(stale).read_text())
    folder.state_marker(stale).write_text(json.dumps(marker | {"calibration": "older"}))
    done = {r.shard for r in folder.state_records(ledger.shards, manifest.calibration)}
    assert done == {s.shard for s in ledger.shards} - {torn, stale}
    with pytest.raises(IncompleteError, match=r"2 of .* shards are not captured"):
        select(config_for((), tmp_path / "o", input=()), folder.root)


def test_select_without_states_says_what_to_do(tmp_path):
    with pytest.raises(IncompleteError, match="holds no complete corpus"):
        select(config_for((), tmp_path, input=()))


@pytest.mark.parametrize("shards", [1, 2, 7, 16])
def test_the_exact_core_set_does_not_depend_on_the_sharding(finished, in_process, tmp_path, shards):
    """The finished run's own states, dealt to other canonical shards."""
    reshard(finished.output, tmp_path / "states", shards)
    config = config_for((), tmp_path / "out", input=())
    select(config, tmp_path / "states")
    assert core_bytes(tmp_path / "out") == core_bytes(finished.output)


def test_gains_are_the_objective_recomputed_from_the_states(finished):
    """An independent count over the stored states gives the gains (sqrt; neurons and tree).

    Rows have the weights of balance 1, made again from the rows that are like each.
    """
    uids, neurons, nodes = stored_states(finished.output)
    levels = stored_levels(finished.output)
    at = {u: i for i, u in enumerate(uids)}
    share = SelectionConfig().tree_share * neurons.shape[1] / levels
    of = {r["uid"]: r for r in finished.selection().to_pylist()}
    rows = [of[u] for u in uids]
    weights = [1 / (1 + (r["like"] - 1) / max(0.0025 * len(rows), 4)) for r in rows]
    bins = [(r["n_tokens"] ** 2).bit_length() for r in rows]  # half octaves
    total: Counter[int] = Counter()
    for b, w in zip(bins, weights, strict=True):
        total[b] += w
    weights = [w * bins.count(b) / total[b] for b, w in zip(bins, weights, strict=True)]
    shown: Counter[int] = Counter()
    for mine, w in zip(neurons.tolist(), weights, strict=True):
        for j in mine:
            shown[j] += w
    # of a neuron of a random example
    worth = sum(n**1.5 for n in shown.values()) / sum(shown.values())
    weight_of = {j: round(n**0.5 / worth * 256) / 256 for j, n in shown.items()}
    counts: dict[tuple[str, int], int] = {}
    for row in finished.rows():
        i = at[row["_mads"]["uid"]]
        gain = 0.0
        for kind, features in (("n", neurons[i]), ("t", nodes[i])):
            for j in features.tolist():
                weight = weight_of[j] if kind == "n" else share
                c = counts.get((kind, j), 0)
                gain += weight * (np.sqrt(c + 1) - np.sqrt(c))
                counts[(kind, j)] = c + 1
        assert gain == pytest.approx(row["_mads"]["gain"], rel=1e-4)
