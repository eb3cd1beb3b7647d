"""A canonical shard that is torn or changed is named, and what its error says to do works."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import TORN, damage_file
from in_process import in_this_process
from ingested import ingested, run_of

from mads_ray.config import CorpusConfig, RunConfig
from mads_ray.errors import DamagedFileError
from mads_ray.pipeline.capture.calibrate import _hashed_below
from mads_ray.storage import write_parquet
from mads_ray.stored.examples import read_examples


@pytest.fixture
def run(tmp_path, in_process):
    rows = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(300)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"nothing": 1}]))
    config = RunConfig(
        input=(str(file),), output=str(tmp_path / "out"), corpus=CorpusConfig(shard_rows=64)
    )
    return run_of(config)


def flip(data):
    """A bit in the pages."""
    return data[:900] + bytes([data[900] ^ 16]) + data[901:]


DAMAGES = {k: TORN[k] for k in ("empty", "zeros", "cut", "one byte short")} | {"a bit": flip}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_remedy_makes_the_shard_anew(run, damage):
    """Remove the shard and the ledger, and the same command goes on: everything else stays."""
    ledger, folder = ingested(run), run.output
    path = folder.shard_file(2)
    before = {p: p.read_bytes() for p in folder.corpus.glob("shard-*")}
    quarantine = sorted(p.name for p in folder.quarantine.iterdir())
    damage_file(path, DAMAGES[damage])
    with pytest.raises(DamagedFileError, match=f"{path} .*Remove it and"):
        _hashed_below(path, ledger.shards[2], 2**64 - 1)
    with pytest.raises(DamagedFileError, match=str(folder.ledger)):
        read_examples(path)
    path.unlink()
    folder.ledger.unlink()
    kept = {p: p.stat().st_mtime_ns for p in before if p != path and p.suffix == ".parquet"}
    assert ingested(run) == ledger
    assert {p: p.read_bytes() for p in folder.corpus.glob("shard-*")} == before
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # the others were not built again
    assert sorted(p.name for p in folder.quarantine.iterdir()) == quarantine


WRONG = {
    "another shard": lambda folder: pq.read_table(folder.shard_file(1)),
    "a row less": lambda folder: pq.read_table(folder.shard_file(2)).slice(1),
    "no uids": lambda folder: pq.read_table(folder.shard_file(2)).set_column(
        0, "uid", pa.nulls(pq.read_metadata(folder.shard_file(2)).num_rows, pa.string())
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_examples_of_others_are_noticed(run, name):
    ledger, folder = ingested(run), run.output
    write_parquet(folder.shard_file(2), WRONG[name](folder))
    with pytest.raises(DamagedFileError, match="the ledger has"):
        read_examples(folder.shard_file(2), ["uid"], ledger.shards[2])


def test_settings_of_a_newer_version_are_told_of(run):
    ingested(run)
    ledger = json.loads(run.output.ledger.read_text())
    ledger["identity"]["corpus"]["since_version_9"] = True
    run.output.ledger.write_text(json.dumps(ledger))
    with in_this_process(), pytest.raises(ValueError, match="settings of another version") as e:
        ingested(run)
    assert str(run.output.ledger) in str(e.value)
