"""Pass two of ingest: runs become canonical shards.

A shard is a range of uids. Pass two merges that range from all runs and collapses exact duplicates.
Uids are hashes, so a range is a uniform random part of the corpus, equal examples are in one shard,
and the shards depend on the corpus alone. Many consecutive shards are made at once, so that each
run is opened once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from mads_ray.arrays import I64
from mads_ray.corpus.spool.runs import PREFIX_BITS, read_runs, uid_order, uid_words
from mads_ray.hashing import checksum, row_ids
from mads_ray.ledger import ShardRecord
from mads_ray.storage import write_json, write_parquet
from mads_ray.stored.records import read_marker
from mads_ray.stored.tables import parquet_rows

_GROUP_BYTES = 256 * 2**20
_GROUPS_A_WORKER = 4


def shard_groups(n_shards: int, nbytes: int, workers: int) -> list[range]:
    """Consecutive shards to make at once, as many as hold about 256 MB.

    They are fewer where workers would have nothing to do. `nbytes`: what all runs hold in memory.
    """
    n = min(n_shards, max(-(-nbytes // _GROUP_BYTES), _GROUPS_A_WORKER * workers))
    return [range(i * n_shards // n, (i + 1) * n_shards // n) for i in range(n)]


def build_shards(
    shards: range,
    n_shards: int,
    runs: Sequence[Path],
    files: Sequence[str],
    target: Callable[[int], Path],
) -> list[ShardRecord]:
    """Pass two for some consecutive shards. Of equal examples it keeps the first by (file, row).

    `runs`: in the order of their files and rows. `files`: paths of the files by number. `target`:
    the file of each shard. A shard whose marker is there is not made again.
    """
    done = {s: record for s in shards if (record := _stored(target(s))) is not None}
    todo = [s for s in shards if s not in done]
    if todo:
        rows = read_runs(
            runs, _first_prefix(todo[0], n_shards), _first_prefix(todo[-1] + 1, n_shards)
        )
        high_N, low_N = uid_words(rows.column("uid"))
        order_N, starts_E = uid_order(high_N, low_N)
        prefix_E = high_N[order_N[starts_E]] >> np.uint64(64 - PREFIX_BITS)
        copies_N = np.asarray(rows.column("copies"))[order_N]
        copies_E = np.add.reduceat(copies_N, starts_E) if len(starts_E) else copies_N
        for shard in todo:
            bounds = [_first_prefix(s, n_shards) for s in (shard, shard + 1)]
            here = slice(*np.searchsorted(prefix_E, np.array(bounds, np.uint64)).tolist())
            kept = order_N[starts_E[here]]
            done[shard] = _write(shard, rows, kept, copies_E[here], files, target(shard))
    return [done[s] for s in shards]


def _stored(target: Path) -> ShardRecord | None:
    stored = read_marker(_marker(target), ShardRecord)
    whole = stored is not None and parquet_rows(target) == stored.rows
    return stored if whole else None


def _marker(target: Path) -> Path:
    return target.with_suffix(".done.json")


def _write(
    shard: int,
    rows: pa.RecordBatch,
    kept_E: I64,
    copies_E: I64,
    files: Sequence[str],
    target: Path,
) -> ShardRecord:
    kept = rows.take(pa.array(kept_E))
    text = b"".join(kept.column("uid").to_pylist()).hex()
    paths = [files[i] for i in kept.column("file").to_pylist()]
    uids = [text[i : i + 32] for i in range(0, len(text), 32)]
    table = pa.table(
        {
            "uid": pa.array(uids, pa.string()),
            "source_file": pa.array(paths, pa.string()),
            **{n: kept.column(n) for n in ("source_row", "label", "messages", "raw")},
            "copies": pa.array(copies_E, pa.int32()),
            "row_id": pa.array(row_ids(uids), pa.int64()),
        }
    )
    record = ShardRecord(shard, len(uids), int(copies_E.sum()) - len(uids), checksum(uids))
    write_parquet(target, table)
    write_json(_marker(target), asdict(record))
    return record


def shard_bounds(shard: int, n_shards: int) -> tuple[str, str]:
    """The half-open range [low, high) of uid prefixes (8 hex digits) of a shard."""
    low, high = _first_prefix(shard, n_shards), _first_prefix(shard + 1, n_shards)
    # "g" sorts after every hex digit
    return f"{low:08x}", f"{high:08x}" if high < 1 << PREFIX_BITS else "g"


def _first_prefix(shard: int, n_shards: int) -> int:
    """The smallest prefix of a uid, as a number, in this shard and those after it."""
    return -(-(shard << PREFIX_BITS) // n_shards)


def shard_count(examples: int, shard_rows: int) -> int:
    """The number of canonical shards. It depends on the corpus alone.

    A small corpus gets up to 16 shards of at least 64 rows, so that all cores of a laptop work.
    """
    small = min(16, examples // 64)
    return max(1, small, -(-examples // shard_rows))
