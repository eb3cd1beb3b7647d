"""A marker that is torn or foreign counts as absent: its work is made again, the log names it."""

import json

import pytest
from damage import FOREIGN, STRANGE, TORN, damage_file
from selections import make_run

from mads_ray.config import CorpusConfig
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.shards import build_shards
from mads_ray.corpus.spool.first_pass import spool_piece, stored_summary
from mads_ray.corpus.spool.pieces import Piece
from mads_ray.errors import IncompleteError
from mads_ray.ledger import ShardRecord
from mads_ray.states import CapturedStates
from mads_ray.storage import read_json
from mads_ray.stored.records import read_marker

DAMAGES = TORN | FOREIGN | STRANGE


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), 60, 3)


@pytest.fixture
def restored():
    """Files of a shared folder, which the test gets back as they were."""
    kept = {}

    def keep(path):
        kept[path] = path.read_bytes()
        return path

    yield keep
    for path, data in kept.items():
        path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_with_such_a_marker_is_captured_again(captured, restored, caplog, damage):
    marker = restored(captured.state_marker(1))
    damage_file(marker, DAMAGES[damage])
    ledger = captured.load_ledger()
    records = captured.state_records(ledger.shards, "synthetic")
    assert [r.shard for r in records] == [0, 2]
    assert str(marker) in caplog.text
    assert len(caplog.records) == 1
    with pytest.raises(IncompleteError, match=r"1 of 3 shards are not captured \(first: 1\)"):
        CapturedStates.open(captured)


@pytest.mark.parametrize(
    "change",
    [
        {"shard": 2},
        {"captured": 19, "quarantined": 1},
        {"captured_checksum": "zz"},
        {"captured_checksum": "0" * 16},
        {"calibration": "another"},
    ],
)
def test_a_marker_of_other_work_does_not_count(captured, restored, change):
    marker = restored(captured.state_marker(1))
    marker.write_text(json.dumps(read_json(marker) | change))
    records = captured.state_records(captured.load_ledger().shards, "synthetic")
    assert [r.shard for r in records] == [0, 2]


def test_swapped_markers_do_not_count(captured, restored):
    first, second = (restored(captured.state_marker(s)) for s in (0, 2))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    records = captured.state_records(captured.load_ledger().shards, "synthetic")
    assert [r.shard for r in records] == [1]


def test_a_newer_version_is_told_of_in_words(captured, restored, caplog):
    damage_file(restored(captured.state_marker(0)), STRANGE["a newer key"])
    captured.state_records(captured.load_ledger().shards, "synthetic")
    assert "'since_version_9', which this version of mads_ray does not know" in caplog.text


# --- of ingest ---


@pytest.fixture
def ingest(tmp_path):
    """Spools one file, and builds one shard of it."""
    rows = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(40)]
    rows.append({"nothing": 1})  # for the quarantine
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (found,) = discover([str(file)]).files

    def again():
        spool, target = tmp_path / "spool", tmp_path / "shard-00000.parquet"
        piece = Piece(0, found)
        summary = spool_piece(piece, CorpusConfig(), spool, tmp_path / "quarantine")
        runs = [spool / name for name in summary.runs]
        (record,) = build_shards(range(1), 1, runs, [str(file)], lambda shard: target)
        return summary, record

    return again


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["spool/piece-00000.done.json", "shard-00000.done.json"])
def test_ingest_does_again_what_such_a_marker_marks(ingest, tmp_path, caplog, name, damage):
    before = ingest()
    assert before[0].quarantined == 1
    marker, shard = tmp_path / name, tmp_path / "shard-00000.parquet"
    stored, bytes_before = marker.read_bytes(), shard.read_bytes()
    damage_file(marker, DAMAGES[damage])
    assert ingest() == before
    assert marker.read_bytes() == stored
    assert shard.read_bytes() == bytes_before
    assert str(marker) in caplog.text


def test_the_summary_of_a_file_survives_the_disk(ingest, tmp_path):
    summary, _ = ingest()
    (found,) = discover([str(tmp_path / "rows.jsonl")]).files
    assert stored_summary(tmp_path / "spool", Piece(0, found)) == summary


@pytest.mark.parametrize("damage", ["empty", "cut"])
def test_a_torn_shard_of_an_unfinished_ingest_is_built_again(ingest, tmp_path, damage):
    before, shard = ingest(), tmp_path / "shard-00000.parquet"
    data = shard.read_bytes()
    damage_file(shard, TORN[damage])
    assert ingest() == before
    assert shard.read_bytes() == data


def test_a_marker_that_cannot_be_read_is_no_absent_one(tmp_path):
    """No access, or a folder: the system's error, and nothing is done over it."""
    (tmp_path / "a.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a\.json"):
        read_marker(tmp_path / "a.json", ShardRecord)
