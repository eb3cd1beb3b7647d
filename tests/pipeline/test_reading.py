"""Terminal, run log, run.json and report tell the same of how rows were read."""

import json
import logging
import shutil

import pyarrow as pa
import pytest
from ingested import ingested, run_of

from mads_ray import RunConfig, runlog
from mads_ray.config import CorpusConfig
from mads_ray.corpus.quarantine import QUARANTINE_SCHEMA
from mads_ray.corpus.tally import Tally
from mads_ray.errors import CorpusError
from mads_ray.ledger import StateRecord
from mads_ray.pipeline import ingest as stage
from mads_ray.pipeline.reading import reading_of, tell_capture
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates
from mads_ray.storage import read_json, write_json, write_parquet

GOOD = [{"prompt": f"Q{i}", "completion": "A", "extra": i} for i in range(40)]
CHAT = {"messages": [{"role": "user", "content": "Q"}, {"role": "critic", "content": "x"}]}


@pytest.fixture
def corpus(tmp_path):
    """Five files of 12 rows: 40 good ones, 2 repeats, 10 without an answer, 8 of a strange role."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [*GOOD, GOOD[0], GOOD[1], *[{"prompt": "Q"}] * 10, *[CHAT] * 8]
    for i in range(5):
        text = "\n".join(json.dumps(r) for r in rows[i * 12 : (i + 1) * 12])
        (folder / f"{i}.jsonl").write_text(text)
    return folder


def read(corpus, output, workers=1, **settings):
    config = RunConfig(
        input=(str(corpus),),
        output=str(output),
        corpus=CorpusConfig(**settings),
        ray={"workers": workers},
    )
    folder = RunFolder(output)
    folder.root.mkdir(parents=True, exist_ok=True)
    with runlog.recording(folder.log):
        return folder, ingested(run_of(config))


@pytest.mark.parametrize("workers", [1, 2])
def test_all_places_count_the_same(ray_local, corpus, tmp_path, caplog, workers):
    caplog.set_level(logging.INFO, "mads_ray")
    folder, ledger = read(corpus, tmp_path / "out", workers)
    assert (ledger.read, ledger.quarantined, ledger.duplicates, ledger.examples) == (60, 18, 2, 40)
    reading = reading_of(CapturedStates(folder, ledger, None, ()))
    tally = Tally.from_json(reading)
    assert (tally.usable, tally.quarantined) == (42, 18)
    assert tally.other == {"extra": 42}
    answer, role = reading["reasons"]
    assert (answer["count"], answer["reason"], answer["row"]) == (10, "missing_field", 6)
    assert answer["file"] == str(corpus / "3.jsonl")
    assert (role["count"], role["field"], role["where"]) == (
        8,
        "messages[].role",
        "messages[1].role",
    )
    assert (role["file"], role["row"]) == (str(corpus / "4.jsonl"), 4)
    assert reading["worst_file"] == {"file": str(corpus / "4.jsonl"), "read": 12, "quarantined": 12}
    told = caplog.messages
    assert "ingest: 60 rows read from 5 file(s): 40 examples, 2 exact duplicates, 18 q" in told[0]
    for found in reading["reasons"]:
        line = next(t for t in told if found["reason"] in t)
        assert f"quarantined {found['count']} " in line
        assert f"{found['file']} row {found['row']}: {found['message'][:80]}" in line
    assert any("extra 42" in t for t in told)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "30% of all rows are in quarantine" in warning
    assert "4.jsonl (12 of its 12 rows)" in warning
    (event,) = [e for e in runlog.read_log(folder.log) if e["event"] == "ingested"]
    assert event["reasons"] == reading["reasons"]
    assert (event["schemas"], event["quarantined"]) == (reading["schemas"], 18)


def test_workers_and_resuming_change_nothing(ray_local, corpus, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "mads_ray")
    folder, ledger = read(corpus, tmp_path / "one")
    assert read(corpus, tmp_path / "two", 2)[1] == ledger

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            read(corpus, tmp_path / "cut", 2)
    assert read(corpus, tmp_path / "cut", 2)[1] == ledger
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("  ")]
    assert len(told) % 3 == 0
    once = told[: len(told) // 3]
    assert told == once * 3
    caplog.clear()
    assert read(corpus, folder.root)[1] == ledger  # a finished ingest tells it again
    assert [t for t in caplog.messages if t.startswith("  ")] == once


def test_a_corpus_without_a_usable_row_says_why(in_process, corpus, tmp_path):
    with pytest.raises(
        CorpusError, match=r"all in quarantine:\n  8 unknown_role.*4\.jsonl row 4: "
    ) as e:
        read(corpus / "4.jsonl", tmp_path / "out")
    assert "unknown_role (messages[].role)" in str(e.value)


def test_a_mapped_field_in_no_row_is_warned_of(in_process, corpus, tmp_path, caplog):
    fields = {"prompt": "prompt", "response": "completion", "system": "sys"}
    read(corpus, tmp_path / "out", fields=fields)
    assert "--field system=sys: no row has this field" in caplog.text


def record(shard, quarantined):
    return StateRecord(shard, 5, quarantined, "", "", "c", 0, 0, 0, 0.0)


def lost(folder, shard, rows):
    schema = QUARANTINE_SCHEMA
    names = ("source_file", "source_row", "field", "reason", "message", "raw")
    table = pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows], schema)
    write_parquet(folder.quarantine / f"part-capture-{shard:05d}.parquet", table)


def test_rows_that_capture_lost_are_in_the_same_table(in_process, corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO, "mads_ray")
    folder, ledger = read(corpus, tmp_path / "out")
    lost(
        folder, 0, [("/b", 3, "", "no_own_tokens", "m3", ""), ("/b", 9, "", "model_error", "e", "")]
    )
    lost(folder, 1, [("/a", 8, "", "no_own_tokens", "m8", "")])
    lost(folder, 2, [("/a", 0, "", "no_own_tokens", "of another run", "")])
    records = [record(0, 2), record(1, 1), record(2, 0)]
    states = CapturedStates(folder, ledger, None, tuple(records))
    reasons = {r["reason"]: r for r in reading_of(states)["reasons"]}
    assert sum(r["count"] for r in reasons.values()) == 18 + 3
    assert (reasons["no_own_tokens"]["count"], reasons["no_own_tokens"]["file"]) == (2, "/a")
    caplog.clear()
    tell_capture(folder, records)
    assert caplog.messages == [
        "capture: 3 rows quarantined",
        "  quarantined 2 no_own_tokens: /a row 8: m8",
        "  quarantined 1 model_error: /b row 9: e",
    ]
    caplog.clear()
    tell_capture(folder, [record(2, 0)])
    assert not caplog.messages
    shutil.rmtree(folder.quarantine)  # the counts hold all the same
    assert Tally.from_json(reading_of(states)).quarantined == 21


def test_folders_of_older_versions_are_still_read(in_process, corpus, tmp_path):
    folder, ledger = read(corpus, tmp_path / "out")
    stored = read_json(folder.corpus / "ledger.json")
    del stored["reading"], stored["identity"]["corpus"]["text_only"]
    write_json(folder.corpus / "ledger.json", stored)
    again = read(corpus, tmp_path / "out")[1]
    assert again.reading is None
    assert again.shards == ledger.shards
    found = reading_of(CapturedStates(folder, again, None, ()))
    assert found["reasons"] == ledger.reading["reasons"]
    assert found["schemas"] == {}
