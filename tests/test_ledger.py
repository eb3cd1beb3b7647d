"""The ledger notices every lost, doubled or exchanged row."""

from dataclasses import replace

import pyarrow as pa
import pytest

from mads_ray.errors import IncompleteError
from mads_ray.hashing import checksum
from mads_ray.ledger import CorpusLedger, ShardRecord, StateRecord, check_against, total_checksum
from mads_ray.run_folder import RunFolder
from mads_ray.storage import read_json, write_json, write_parquet, write_whole

UIDS = [[f"{10 * s + i:032x}" for i in range(3)] for s in range(4)]
SHARDS = tuple(ShardRecord(s, 3, s, checksum(uids)) for s, uids in enumerate(UIDS))
LEDGER = CorpusLedger(read=20, quarantined=2, duplicates=6, examples=12, shards=SHARDS)


def state(shard, lost=0):
    uids = UIDS[shard]
    kept = uids[: 3 - lost]
    return StateRecord(shard, 3 - lost, lost, checksum(uids), checksum(kept), "c", 9, 12, 0, 0.5)


def states():
    return {s: state(s) for s in range(4)}


def test_ledger_adds_up():
    LEDGER.check()


@pytest.mark.parametrize("name", ["read", "quarantined", "duplicates", "examples"])
@pytest.mark.parametrize("change", [-1, 1])
def test_lost_or_doubled_row_is_noticed(name, change):
    wrong = replace(LEDGER, **{name: getattr(LEDGER, name) + change})
    with pytest.raises(IncompleteError, match=f"ingest read {wrong.read} rows but accounts for"):
        wrong.check()


def test_ledger_is_stored_and_loaded(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.corpus_identity() is None
    with pytest.raises(IncompleteError, match="holds no complete corpus"):
        folder.load_ledger()
    identity = {"files": [{"path": "é"}], "corpus": {}}
    folder.save_ledger(LEDGER, identity)
    assert folder.corpus_identity() == identity
    assert RunFolder(tmp_path / "run").load_ledger() == LEDGER


def test_wrong_ledger_is_not_stored(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(IncompleteError):
        folder.save_ledger(replace(LEDGER, examples=11), {})
    assert list(tmp_path.iterdir()) == []


def test_complete_stage_passes():
    check_against(SHARDS, states())
    check_against(SHARDS, {**states(), 2: state(2, lost=2)})  # quarantined rows are accounted for
    check_against(SHARDS, {**states(), 9: state(1)})
    check_against((), {})


def test_missing_shards_are_named():
    done = states()
    del done[1], done[3]
    with pytest.raises(IncompleteError, match=r"2 of 4 shards are not captured \(first: 1\)"):
        check_against(SHARDS, done)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(state(2), captured=2),
        replace(state(2), captured=4),
        replace(state(2), quarantined=1),
        replace(state(2), checksum=checksum([*UIDS[2][:2], UIDS[1][0]])),
    ],
)
def test_wrong_shard_is_named(wrong):
    with pytest.raises(IncompleteError, match=r"^shard 2: "):
        check_against(SHARDS, {**states(), 2: wrong})


def put(folder, record):
    write_json(folder.state_marker(record.shard), vars_of(record))
    rows = pa.table({"uid": UIDS[record.shard][: record.captured]})
    write_parquet(folder.state_file(record.shard), rows)


def vars_of(record):
    return {name: getattr(record, name) for name in record.__slots__}


def test_state_records_come_from_markers_in_shard_order(tmp_path):
    folder = RunFolder(tmp_path)
    for s in (3, 0, 2, 1):
        put(folder, state(s, lost=1 if s == 2 else 0))
    records = folder.check_states(LEDGER, "c")
    assert records == (state(0), state(1), state(2, lost=1), state(3))
    assert total_checksum(records) == checksum(u for s in range(4) for u in UIDS[s][: 3 - (s == 2)])


def test_marker_without_its_file_does_not_count(tmp_path):
    folder = RunFolder(tmp_path)
    for s in range(4):
        put(folder, state(s))
    folder.state_file(2).unlink()
    assert folder.state_records(SHARDS, "another calibration") == ()
    assert [r.shard for r in folder.state_records(SHARDS, "c")] == [0, 1, 3]
    with pytest.raises(IncompleteError, match=r"1 of 4 shards are not captured \(first: 2\)"):
        folder.check_states(LEDGER, "c")


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    write_json(tmp_path / "x.json", {"a": "é"})

    def fail(path):
        path.write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_whole(tmp_path / "x.json", fail)
    assert read_json(tmp_path / "x.json") == {"a": "é"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert read_json(tmp_path / "missing.json") is None


def test_schemas_add_up_to_the_usable_rows():
    replace(LEDGER, reading={"schemas": {"messages": 17, "prompt": 1}}).check()
    with pytest.raises(IncompleteError, match="18 rows as examples"):
        replace(LEDGER, reading={"schemas": {"messages": 17}}).check()
