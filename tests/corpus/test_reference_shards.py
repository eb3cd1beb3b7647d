"""Shards are, byte for byte, what a slow reference makes: sort everything, cut by uid.

The reference shares no code with ingest but how one row is read. Shards that an older version
wrote are what it would write, so a stopped ingest goes on with them.
"""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mads_ray.corpus.spool.runs as runs
from mads_ray.config import CorpusConfig
from mads_ray.corpus.buckets import count_buckets, read_buckets, write_buckets
from mads_ray.corpus.examples import read_example, rules_of
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.corpus.shards import build_shards, shard_groups
from mads_ray.corpus.spool.first_pass import spool_piece
from mads_ray.corpus.spool.pieces import Piece

FIRST = [("uid", pa.string()), ("source_file", pa.string()), ("source_row", pa.int64())]
TEXTS = [("label", pa.string()), ("messages", pa.large_string()), ("raw", pa.large_string())]
COUNTS = [("copies", pa.int32()), ("row_id", pa.int64())]


def reference(folder, out, n_shards):
    rows = []
    for file in discover([str(folder)]).files:
        for row in read_rows(file):
            reading, uid, label = read_example(row, rules_of(CorpusConfig()))
            text = reading.conversation.to_json()
            rows.append((uid, file.path, row.index, label, text, row.raw))
    rows.sort(key=lambda r: r[:3])
    shards = [[] for _ in range(n_shards)]
    for row in rows:
        shards[int(row[0][:8], 16) * n_shards >> 32].append(row)
    out.mkdir()
    for s, of_shard in enumerate(shards):
        kept = {}
        for row in of_shard:
            kept.setdefault(row[0], []).append(row)
        table = [
            (*same[0], len(same), int.from_bytes(bytes.fromhex(uid[:16]), "big", signed=True))
            for uid, same in kept.items()
        ]
        columns = list(zip(*table, strict=True)) or [[]] * 8
        written = pa.table([list(c) for c in columns], pa.schema([*FIRST, *TEXTS, *COUNTS]))
        path = out / f"shard-{s:05d}.parquet"
        how = {"compression": "zstd", "row_group_size": 4096, "write_page_checksum": True}
        pq.write_table(written, path, **how)
    return out


def both_passes(folder, out, n_shards, groups):
    files = discover([str(folder)]).files
    found = [
        spool_piece(Piece(i, f), CorpusConfig(), out / "spool", out / "q")
        for i, f in enumerate(files)
    ]
    of = [out / "spool" / r for f in found for r in f.runs]
    for group in shard_groups(n_shards, groups * 2**28, 0):
        paths = [f.path for f in files]
        build_shards(group, n_shards, of, paths, lambda s: out / f"shard-{s:05d}.parquet")
    return out, of


def corpus(folder, rows, seed=0):
    folder.mkdir()
    pick = random.Random(seed)
    for name in ("a", "ö", "z"):
        with (folder / f"{name}.jsonl").open("w") as f:
            for i in range(rows):
                n = i if pick.random() < 0.7 else pick.randrange(9)
                label = {"task": pick.choice("xyz")} if pick.random() < 0.5 else {}
                row = {"prompt": f"frage {name} {n} é", "completion": "a " * (n % 50), **label}
                row["prompt"] = row["prompt"] if n % 3 else f"in all files {n}"
                row["completion"] += f"{n}"
                f.write(json.dumps(row, ensure_ascii=n % 2 == 0) + "\n")


@pytest.mark.parametrize(("rows", "n_shards"), [(0, 1), (7, 16), (3000, 1), (5000, 1), (3000, 37)])
@pytest.mark.parametrize("groups", [1, 5, 100])
@pytest.mark.parametrize("small_runs", [False, True])
def test_bytes_of_shards(tmp_path, monkeypatch, rows, n_shards, groups, small_runs):
    if small_runs:
        monkeypatch.setattr(runs, "_BATCH_ROWS", 500)
        monkeypatch.setattr(runs, "_RUN_BYTES", 200_000)
    monkeypatch.setattr(runs, "_BUCKET_BYTES", 5000)
    corpus(tmp_path / "in", rows)
    wanted = reference(tmp_path / "in", tmp_path / "wanted", n_shards)
    found, of = both_passes(tmp_path / "in", tmp_path / "found", n_shards, groups)
    for s in range(n_shards):
        name = f"shard-{s:05d}.parquet"
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name
    if rows >= 3000:
        assert {count_buckets(r) for r in of} <= {8, 16, 32, 64, 128}
        assert (len(of) > 3) == small_runs


def test_a_bucket_is_read_alone(tmp_path):
    batch = pa.record_batch({"n": pa.array([5, 3, 9, 1, 7])})
    path = tmp_path / "x"
    write_buckets(path, batch, pa.array([3, 1, 0, 4]).to_numpy(), pa.array([0, 1, 1, 4]).to_numpy())
    assert count_buckets(path) == 4

    def read(first, stop):
        return [(b, r["n"].to_pylist()) for b, r in read_buckets(path, first, stop, batch.schema)]

    assert read(0, 4) == [(1, [1]), (3, [3, 5, 7])]
    assert read(0, 1) == read(2, 3) == read(2, 2) == []
    assert read(2, 4) == [(3, [3, 5, 7])]
    # Only the bucket's own bytes are read: others may be torn.
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[16 + 8 * 3 : 16 + 8 * 4], "little")
    data[56 : start - 8] = bytes(start - 64)
    path.write_bytes(data)
    assert read(3, 4) == [(3, [3, 5, 7])]
    path.write_bytes(data[:-40])
    with pytest.raises(OSError, match="cut short"):
        read(3, 4)
    path.write_bytes(b"PAR1" + bytes(data[4:]))
    with pytest.raises(OSError, match="not a file of buckets"):
        count_buckets(path)
