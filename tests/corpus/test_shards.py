"""Any corpus becomes the same shards, and every row is accounted for."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import mads_ray.corpus.quarantine as quarantine
import mads_ray.corpus.spool.runs as runs_module
from mads_ray.config import CorpusConfig
from mads_ray.corpus.conversation import Conversation, Message
from mads_ray.corpus.forms.schemas import read_row
from mads_ray.corpus.identity import uid_of
from mads_ray.corpus.quarantine import quarantine_row
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.shards import build_shards, shard_bounds, shard_count, shard_groups
from mads_ray.corpus.spool.first_pass import spool_piece
from mads_ray.corpus.spool.pieces import Piece
from mads_ray.corpus.spool.runs import read_runs
from mads_ray.errors import RowError
from mads_ray.hashing import add_checksums, checksum, row_ids
from mads_ray.storage import read_json


def good(i, task=None):
    row = {"prompt": f"question {i}", "completion": f"answer {i}"}
    return {**row, "task": task} if task else row


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def run(pattern, out, n_shards=1, corpus=None):
    """Both passes, as the pipeline does them: summaries, shard records and the shards' rows."""
    out, corpus = Path(out), corpus or CorpusConfig()
    files = discover([str(pattern)]).files
    summaries = [
        spool_piece(Piece(i, f), corpus, out / "spool", out / "quarantine")
        for i, f in enumerate(files)
    ]
    runs = [out / "spool" / r for s in summaries for r in s.runs]

    def target(shard):
        return out / f"shard-{shard:05d}.parquet"

    records = []
    for group in shard_groups(n_shards, 3 * 2**28, 0):
        records += build_shards(group, n_shards, runs, [f.path for f in files], target)
    return summaries, records, [pq.read_table(target(s)).to_pylist() for s in range(n_shards)]


def bad_rows(out):
    parts = sorted((Path(out) / "quarantine").glob("*.parquet"))
    return [r for p in parts for r in pq.read_table(p).to_pylist()]


def contents(shards):
    """What must not depend on files and their order."""
    return [[(r["uid"], r["messages"], r["row_id"], r["copies"]) for r in s] for s in shards]


MIXED = [
    *(good(i) for i in range(40)),
    *(good(i) for i in range(0, 40, 4)),
    {"instruction": "question 1", "input": "", "output": "answer 1\r\n"},
    {"prompt": "Q"},
    "{broken",
    '{"prompt": "\\ud800", "completion": "x"}',
    [1],
    {"messages": [{"role": "critic", "content": "x"}]},
]
N_BAD, N_DUPLICATES, N_EXAMPLES = 5, 11, 40


@pytest.mark.parametrize("n_shards", [1, 2, 7])
def test_every_row_is_accounted_for(tmp_path, n_shards):
    for name, part in (("a", MIXED[:30]), ("b", MIXED[30:51]), ("c", MIXED[51:])):
        write(tmp_path / "in" / f"{name}.jsonl", part)
    summaries, records, shards = run(tmp_path / "in", tmp_path / "out", n_shards)
    assert [s.read for s in summaries] == [30, 21, 5]
    assert [s.quarantined for s in summaries] == [0, 0, 5]
    assert [s.usable for s in summaries] == [30, 21, 0]
    assert sum(r.rows for r in records) == N_EXAMPLES
    assert sum(r.duplicates for r in records) == N_DUPLICATES
    assert len(bad_rows(tmp_path / "out")) == N_BAD
    assert len(MIXED) == N_BAD + N_DUPLICATES + N_EXAMPLES

    uids = [uid_of(read_row(good(i)).conversation) for i in range(40)]
    assert sorted(r["uid"] for s in shards for r in s) == sorted(uids)
    assert add_checksums(r.checksum for r in records) == checksum(uids)
    for record, rows in zip(records, shards, strict=True):
        low, high = shard_bounds(record.shard, n_shards)
        found = [r["uid"] for r in rows]
        assert found == sorted(u for u in uids if low <= u < high)
        assert (record.rows, record.checksum) == (len(found), checksum(found))
        assert record.duplicates == sum(r["copies"] - 1 for r in rows)
        assert [r["row_id"] for r in rows] == row_ids(found).tolist()


@pytest.mark.parametrize("n_shards", [1, 2, 7])
@pytest.mark.parametrize("n_files", [1, 2, 5])
def test_shards_do_not_depend_on_order_and_files(tmp_path, n_shards, n_files):
    write(tmp_path / "one" / "x.jsonl", MIXED)
    wanted = contents(run(tmp_path / "one", tmp_path / "out1", n_shards)[2])
    shuffled = random.Random(n_files).sample(MIXED, len(MIXED))
    for i in range(n_files):
        write(tmp_path / "many" / f"{i}.jsonl", shuffled[i::n_files])
    # The row of another schema says the same in other words: only its text may differ.
    found = contents(run(tmp_path / "many", tmp_path / "out2", n_shards)[2])
    assert [[(u, i, c) for u, _, i, c in s] for s in found] == [
        [(u, i, c) for u, _, i, c in s] for s in wanted
    ]
    conversations = [[Conversation.from_json(m) for _, m, _, _ in s] for s in found]
    assert [[uid_of(c) for c in s] for s in conversations] == [[x[0] for x in s] for s in wanted]


def test_first_of_equal_rows_is_kept(tmp_path):
    same = [json.dumps({"prompt": "Q", "completion": "A", "task": t}) for t in "bBac"]
    write(tmp_path / "in" / "b.jsonl", [same[0], same[1]])
    write(tmp_path / "in" / "a.jsonl", [good(1), "broken", same[2], good(1)])
    write(tmp_path / "in" / "c.jsonl", [same[3], good(2, task="t")])
    _, (record,), (rows,) = run(tmp_path / "in", tmp_path / "out")
    assert (record.rows, record.duplicates) == (3, 4)
    found = {r["messages"]: r for r in rows}
    row = found['[["user", "Q"], ["assistant", "A"]]']
    assert (row["source_file"], row["source_row"]) == (str(tmp_path / "in" / "a.jsonl"), 2)
    assert (row["raw"], row["label"], row["copies"]) == (same[2], "a", 4)
    assert found['[["user", "question 1"], ["assistant", "answer 1"]]']["source_row"] == 0
    alone = found['[["user", "question 2"], ["assistant", "answer 2"]]']
    assert (alone["copies"], alone["label"], alone["source_row"]) == (1, "t", 1)


def test_first_of_equal_rows_in_several_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "_BATCH_ROWS", 2)
    monkeypatch.setattr(runs_module, "_RUN_BYTES", 1)
    write(tmp_path / "x.jsonl", [good(i % 3) for i in range(20)])
    (summary,), _, (rows,) = run(tmp_path / "x.jsonl", tmp_path / "out")
    assert len(summary.runs) == 10
    assert sorted((r["source_row"], r["copies"]) for r in rows) == [(0, 7), (1, 7), (2, 6)]


@pytest.mark.parametrize(("name", "value"), [("_BATCH_ROWS", 7), ("_BATCH_CHARS", 1000)])
def test_runs_are_bounded_and_shards_the_same(tmp_path, monkeypatch, name, value):
    write(tmp_path / "x.jsonl", MIXED)
    _, wanted, whole = run(tmp_path / "x.jsonl", tmp_path / "one", 3)
    monkeypatch.setattr(runs_module, name, value)
    monkeypatch.setattr(runs_module, "_RUN_BYTES", 100)
    (summary,), records, shards = run(tmp_path / "x.jsonl", tmp_path / "many", 3)
    assert len(list((tmp_path / "one" / "spool").glob("*.rows"))) == 1
    tables = [read_runs([tmp_path / "many" / "spool" / r], 0, 2**32) for r in summary.runs]
    assert 4 < len(tables) < 12
    assert sum(sum(t["copies"].to_pylist()) for t in tables) == summary.usable
    for table in tables:
        assert table["uid"].to_pylist() == sorted(set(table["uid"].to_pylist()))
        if name == "_BATCH_ROWS":
            assert table.num_rows <= value
    assert records == wanted
    assert shards == whole


def test_quarantine_is_split_too(tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "_PART_ROWS", 2)
    write(tmp_path / "x.jsonl", ["broken"] * 5)
    (file,) = discover([str(tmp_path / "x.jsonl")]).files
    spool_piece(Piece(7, file), CorpusConfig(), tmp_path, tmp_path / "q")
    assert sorted(p.name for p in (tmp_path / "q").iterdir()) == [
        f"part-ingest-00007-0000{i}.parquet" for i in range(3)
    ]
    rows = [
        r["source_row"]
        for p in sorted((tmp_path / "q").iterdir())
        for r in pq.read_table(p).to_pylist()
    ]
    assert rows == [0, 1, 2, 3, 4]


def test_quarantine_row_says_where_and_why(tmp_path):
    long = json.dumps({"prompt": "é" * 3000})
    write(
        tmp_path / "x.jsonl",
        [good(0), {"prompt": 3, "completion": "A"}, '{"a": oops}', good(1), long],
    )
    summaries, _, _ = run(tmp_path / "x.jsonl", tmp_path / "out")
    assert (summaries[0].read, summaries[0].quarantined) == (5, 3)
    file = str(tmp_path / "x.jsonl")
    assert bad_rows(tmp_path / "out") == [
        {
            "source_file": file,
            "source_row": 1,
            "field": "prompt",
            "reason": "wrong_type",
            "message": "field 'prompt' must be text, it is a int",
            "raw": '{"prompt": 3, "completion": "A"}',
        },
        {
            "source_file": file,
            "source_row": 2,
            "field": "",
            "reason": "invalid_json",
            "message": "line 3 is not JSON: Expecting value (column 7)",
            "raw": '{"a": oops}',
        },
        {
            "source_file": file,
            "source_row": 4,
            "field": "completion",
            "reason": "missing_field",
            "message": "the row has no field 'completion', nor any other answer (output, response, "
            "completion, chosen, ...: docs/forms.md lists them)",
            "raw": long[:2000] + f"... ({len(long)} characters)",
        },
    ]


def test_quarantined_text_is_cut_only_when_too_long():
    error = RowError("empty", "", "m")
    assert quarantine_row({}, error, "x" * 2000)["raw"] == "x" * 2000
    assert quarantine_row({}, error, "x" * 2001)["raw"] == "x" * 2000 + "... (2001 characters)"
    assert quarantine_row({}, error, "a\ud800")["raw"] == "a?"


@pytest.mark.parametrize(
    "row",
    [
        '{"\\ud800": 1}',
        '{"messages": [{"role": "\\ud800", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": [{"type": "\\ud800"}]}]}',
        '{"prompt": "\\ud800", "completion": "x"}',
        '{"prompt": "x", "completion": "x", "task": "\\ud800"}',
        '{"prompt": "x", "completion": "x", "n": ' + "9" * 5000 + "}",
        "[" * 5000,
    ],
    ids=["key", "role", "part", "text", "label", "integer", "nested"],
)
def test_no_row_can_break_its_file(tmp_path, row):
    write(tmp_path / "x.jsonl", [good(0), row, good(1)])
    summaries, (record,), _ = run(tmp_path / "x.jsonl", tmp_path / "out")
    assert (summaries[0].read, summaries[0].quarantined, record.rows) == (3, 1, 2)
    (bad,) = bad_rows(tmp_path / "out")
    assert bad["source_row"] == 1
    assert bad["raw"].startswith(row[:2000])


def test_second_run_rewrites_nothing(tmp_path):
    write(tmp_path / "x.jsonl", MIXED)
    first = run(tmp_path / "x.jsonl", tmp_path / "out", 3)

    def stamps():
        files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
        return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}

    before = stamps()
    assert len(before) == 2 + 1 + 2 * 3  # run and marker, quarantine, shards and markers
    assert run(tmp_path / "x.jsonl", tmp_path / "out", 3) == first
    assert stamps() == before


def test_work_without_its_marker_is_done_again(tmp_path):
    write(tmp_path / "x.jsonl", MIXED)
    first = run(tmp_path / "x.jsonl", tmp_path / "out", 2)
    (tmp_path / "out" / "spool" / "piece-00000.done.json").unlink()
    (tmp_path / "out" / "shard-00000.done.json").unlink()
    (tmp_path / "out" / "shard-00001.parquet").unlink()
    assert run(tmp_path / "x.jsonl", tmp_path / "out", 2) == first
    assert len(bad_rows(tmp_path / "out")) == N_BAD


def test_file_that_breaks_half_way_leaves_no_marker(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([good(i) for i in range(9)])[:-10])
    with pytest.raises(ValueError, match=r"x\.json: unreadable after row 8"):
        run(tmp_path / "x.json", tmp_path / "out")
    assert read_json(tmp_path / "out" / "spool" / "piece-00000.done.json") is None


def test_corpus_of_one_row_a_thousand_times(tmp_path):
    write(tmp_path / "x.jsonl", [good(0)] * 1000)
    n_shards = shard_count(1000, 4096)
    _, records, _ = run(tmp_path / "x.jsonl", tmp_path / "out", n_shards)
    assert n_shards == len(records) == 15
    assert (sum(r.rows for r in records), sum(r.duplicates for r in records)) == (1, 999)


def test_shard_without_a_row(tmp_path):
    write(tmp_path / "x.jsonl", [good(0)])
    _, records, shards = run(tmp_path / "x.jsonl", tmp_path / "out", 5)
    assert sorted(r.rows for r in records) == [0, 0, 0, 0, 1]
    assert [len(s) for s in shards] == [r.rows for r in records]
    assert {r.checksum for r in records if not r.rows} == {"0" * 16}
    schemas = {str(pq.read_schema(tmp_path / "out" / f"shard-0000{s}.parquet")) for s in range(5)}
    assert len(schemas) == 1


def test_field_map_and_label_field(tmp_path):
    write(tmp_path / "x.jsonl", [{"q": {"t": "Q"}, "a": "A", "kind": "k"}, good(1)])
    corpus = CorpusConfig(fields={"prompt": "q.t", "response": "a"}, label_field="kind")
    (summary,), _, ((row,),) = run(tmp_path / "x.jsonl", tmp_path / "out", corpus=corpus)
    assert (summary.read, summary.quarantined) == (2, 1)
    assert (row["messages"], row["label"]) == ('[["user", "Q"], ["assistant", "A"]]', "k")
    assert [r["field"] for r in bad_rows(tmp_path / "out")] == ["q.t"]


def test_messages_survive_storage():
    messages = (Message("system", 'é"\\\n'), Message("user", "😀\u2028"), Message("tool", ""))
    assert Conversation.from_json(Conversation(messages).to_json()).messages == messages
