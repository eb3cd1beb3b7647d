"""Flags of the selection on stored states of real rows, from the shell to the files."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from in_process import in_this_process
from typer.testing import CliRunner

from mads_ray.cli import app
from mads_ray.finished_run import FinishedRun
from mads_ray.pipeline.explain import explain
from mads_ray.run_folder import RunFolder

SAMPLE = Path(__file__).parents[2] / "mads_ray" / "sample_corpus"
TASK = "arithmetic_word_problem"


def invoke(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def select(states, output, *flags):
    result = invoke("select", "--states", states, "--output", output, *flags)
    assert result.exit_code == 0, result.output
    return RunFolder(output)


def summary(folder):
    return json.loads(folder.run_json.read_text())


def selection(folder):
    return pq.read_table(sorted(folder.selection.glob("part-*.parquet"))).to_pylist()


def core_set(folder):
    lines = (folder.core_set / "part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module", autouse=True)
def _in_process(finished):
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def balanced(finished, tmp_path_factory):
    """20 rows: some of every file, without near-duplicates, beside two other methods."""
    flags = ["--size", 20, "--floor-per-source", 5, "--cap-per-cluster", 3]
    flags += ["--near-duplicates", 0.9, "--compare", "random", "--compare", "kmeans"]
    return select(finished.output, tmp_path_factory.mktemp("balanced") / "out", *flags)


def test_bounds_of_sources_and_clusters(balanced, small_corpus):
    picked = [r for r in selection(balanced) if r["rank"] is not None]
    files, clusters = ([r[k] for r in picked] for k in ("source_file", "cluster"))
    assert len(picked) == 20
    assert {f: files.count(f) >= 5 for f in set(files)} == dict.fromkeys(
        map(str, small_corpus.iterdir()), True
    )
    assert max(clusters.count(c) for c in clusters) <= 3


def test_near_duplicates_are_accounted_for(balanced, finished):
    rows = selection(balanced)
    assert len(rows) == finished.counts.examples
    at = {r["uid"]: r for r in rows}
    for row in rows:
        if row["near_duplicate_of"] is not None:
            kept = at[row["near_duplicate_of"]]
            assert kept["near_duplicate_of"] is None
            assert (row["rank"], row["cluster"]) == (None, kept["cluster"])


def test_methods_are_in_run_json_and_in_the_report(balanced):
    methods = summary(balanced)["metrics"]["methods"]
    assert set(methods) == {"mads", "random", "kmeans"}
    assert {m["rows"] for m in methods.values()} == {20}
    rows = json.loads(balanced.report_data.read_text())["methods"]
    assert {r["method"] for r in rows} == set(methods)
    tasks = {r["task"] for r in core_set(balanced) if "task" in r}
    assert next(r for r in rows if r["method"] == "mads")["labels"] == len(tasks)
    html = balanced.report_html.read_text(encoding="utf-8")
    assert all(f"<tr><td>{m}</td>" in html for m in methods)


def test_run_json_repeats_all_of_it(balanced, finished, tmp_path):
    again = invoke(
        *("select", "--states", finished.output, "--output", tmp_path / "again"),
        *("--config", balanced.run_json),
    )
    assert again.exit_code == 0, again.output
    assert core_set(RunFolder(tmp_path / "again")) == core_set(balanced)


def test_a_core_set_is_extended_by_exchange(balanced, finished, tmp_path):
    flags = ["--base-core-set", balanced.root, "--size", 30, "--set", "selection.exact_rows=0"]
    folder = select(finished.output, tmp_path / "more", *flags)
    assert summary(folder)["mode"] == "exchange"
    base, more = ({r["_mads"]["uid"] for r in core_set(f)} for f in (balanced, folder))
    assert len(more) == 30
    assert not base & more
    metrics = summary(folder)["metrics"]
    assert metrics["f_random_mean"] < metrics["f"] <= metrics["opt_upper_bound"]
    assert "&ge; 0." in folder.report_html.read_text(encoding="utf-8")


def test_explain_tells_why(balanced):
    row = core_set(balanced)[4]
    told = invoke("explain", balanced.root, row["_mads"]["uid"])
    assert told.exit_code == 0, told.output
    assert f"rank 4: it added {row['_mads']['gain']:,.2f} to f" in told.output
    assert row["_mads"]["source"] in told.output


def test_a_quality_that_no_row_has_is_one_clear_line(finished, tmp_path):
    flags = ["--output", tmp_path / "o", "--size", 9, "--quality-column", "task"]
    result = invoke("select", "--states", finished.output, *flags)
    assert result.exit_code == 2
    (line,) = [x for x in result.output.splitlines() if x.startswith("error: ")]
    assert "--quality-column task is not a finite number" in line
    assert ", row " in line
    assert not (tmp_path / "o" / "run.json").exists()


def weights(folder):
    objective = FinishedRun.open(folder.root).objective
    return objective.weight_D[: objective.neurons]


@pytest.mark.slow
def test_a_target_draws_the_core_set_to_its_kind(finished, small_corpus, tmp_path):
    """Rows of one task that the corpus does not hold; the target is captured with the model."""
    used = (small_corpus / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()
    lines = (SAMPLE / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [x for x in lines if x not in used and f'"task": "{TASK}"' in x]
    assert len(asked) >= 5
    target = tmp_path / "target.jsonl"
    target.write_text("\n".join(asked) + "\n", encoding="utf-8")
    folder = select(finished.output, tmp_path / "o", "--fraction", 0.15, "--target", target)

    def share(rows):
        return np.mean([r.get("task") == TASK for r in rows])

    plain = list(finished.rows())[: len(core_set(folder))]
    assert share(core_set(folder)) >= share(plain) + 0.2
    shown = np.load(folder.target_counts)
    weight = weights(folder)
    assert shown[: len(weight)].sum() == len(asked) * 30 * 64
    assert ((weight > 0) == (shown[: len(weight)] > 0)).all()
    assert summary(folder)["config"]["selection"]["target"] == [str(target)]
    told = explain(folder.root, core_set(folder)[3]["_mads"]["uid"])
    assert told.worth_neurons + told.worth_clusters == pytest.approx(told.worth, rel=1e-12)

    # Another target in the same folder takes the place of the first.
    target.write_text("\n".join(asked[:2]) + "\n", encoding="utf-8")
    select(finished.output, folder.root, "--fraction", 0.15, "--target", target)
    assert np.load(folder.target_counts)[: len(weight)].sum() == 2 * 30 * 64
