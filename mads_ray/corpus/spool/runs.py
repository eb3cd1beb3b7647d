"""Runs: what pass one of ingest found in a piece of the input, sorted by uid, on disk.

Uids are hashes, so each of a run's buckets, one for each beginning of a uid, holds about as much.
Pass two reads from every run only the buckets of its uids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mads_ray.arrays import I64, U64
from mads_ray.corpus.buckets import read_share, write_buckets

_RUN_BYTES = 128 * 2**20
_BUCKET_BYTES = 64 * 2**10  # large enough for zstd, small beside what pass two reads of a run
_MOST_BITS = 12
_BATCH_ROWS, _BATCH_CHARS = 4096, 4 * 2**20  # as Python objects at a time

PREFIX_BITS = 32  # of a uid: ranges of uids are told by them
_SCHEMA = pa.schema(
    [
        ("uid", pa.binary(16)),
        ("file", pa.int32()),  # number of the file: files are sorted by path
        ("source_row", pa.int64()),
        ("copies", pa.int64()),
        ("label", pa.string()),
        ("messages", pa.large_string()),
        ("raw", pa.large_string()),
    ]
)


class RunWriter:
    """Writes the examples of one piece of a file as runs of bounded size.

    `names` are the files written so far, `nbytes` what they hold in memory.
    """

    def __init__(self, folder: Path, name: str, file: int) -> None:
        self.names: list[str] = []
        self.nbytes = 0
        self._folder, self._name, self._file = folder, name, file
        self._rows: list[tuple[str, int, str | None, str, str]] = []
        self._chars = 0
        self._batches: list[pa.RecordBatch] = []
        self._held = 0

    def add(self, uid: str, row: int, label: str | None, messages: str, raw: str) -> None:
        """Add one example. Rows must ascend."""
        self._rows.append((uid, row, label, messages, raw))
        self._chars += len(messages) + len(raw)
        if len(self._rows) >= _BATCH_ROWS or self._chars >= _BATCH_CHARS:
            self._pack()
            if self._held >= _RUN_BYTES:
                self.close()

    def _pack(self) -> None:
        """Turn the rows held as Python objects, which take much more memory, into Arrow."""
        if self._rows:
            uids, numbers, *texts = zip(*self._rows, strict=True)
            n = len(uids)
            packed = pa.py_buffer(bytes.fromhex("".join(uids)))
            columns = [
                pa.Array.from_buffers(pa.binary(16), n, [None, packed]),
                pa.array(np.full(n, self._file, np.int32)),
                pa.array(numbers, pa.int64()),
                pa.array(np.ones(n, np.int64)),
                *(pa.array(t, f.type) for t, f in zip(texts, list(_SCHEMA)[4:], strict=True)),
            ]
            self._batches.append(pa.record_batch(columns, schema=_SCHEMA))
            self._held += self._batches[-1].nbytes
        self._rows, self._chars = [], 0

    def close(self) -> None:
        """Write what is left as one run."""
        self._pack()
        if not self._batches:
            return
        nbytes, batches = self._held, self._batches
        self._batches, self._held = [], 0
        rows = _joined(batches)
        order_N, copies_N = _distinct(rows)
        rows = rows.set_column(3, _SCHEMA.field("copies"), pa.array(copies_N))
        bits = min(_MOST_BITS, max(0, (nbytes // _BUCKET_BYTES).bit_length() - 1))
        prefix_N = uid_words(rows.column("uid"))[0][order_N] >> np.uint64(64 - PREFIX_BITS)
        bucket_N = (prefix_N >> np.uint64(PREFIX_BITS - bits)).astype(np.int64)
        ends_B = np.cumsum(np.bincount(bucket_N, minlength=1 << bits))
        name = f"run-{self._name}-{len(self.names):05d}.rows"
        write_buckets(self._folder / name, rows, order_N, ends_B)
        self.names.append(name)
        self.nbytes += nbytes


def read_runs(runs: Sequence[Path], low: int, high: int) -> pa.RecordBatch:
    """The rows of all runs, one run after another, whose uids begin with [low, high).

    Some rows beside that range come with them: buckets are read whole. Equal uids come in the order
    of their files and rows where the runs do.
    """
    batches = [b for run in runs for b in read_share(run, low, high, PREFIX_BITS, _SCHEMA)]
    return _joined(batches)


def uid_words(uids: pa.Array) -> tuple[U64, U64]:
    """The high and low 64-bit halves of uids of 16 bytes, in the order of the uids."""
    width = uids.type.byte_width
    data = np.frombuffer(uids.buffers()[1] or b"", np.uint8)
    words = data[uids.offset * width : (uids.offset + len(uids)) * width].view(">u8")
    return words[0::2].astype(np.uint64), words[1::2].astype(np.uint64)


def uid_order(high_N: U64, low_N: U64) -> tuple[I64, I64]:
    """Rows sorted by uid, those of one uid in the order they have, and where each uid begins."""
    order_N = np.lexsort((low_N, high_N))
    high_N, low_N = high_N[order_N], low_N[order_N]
    is_new_N = np.ones(len(order_N), bool)
    is_new_N[1:] = (high_N[1:] != high_N[:-1]) | (low_N[1:] != low_N[:-1])
    return order_N, np.flatnonzero(is_new_N)


def _distinct(rows: pa.RecordBatch) -> tuple[I64, I64]:
    """The first row of each uid, sorted by uid, and the copies of each row (others: of no use)."""
    order_N, starts = uid_order(*uid_words(rows.column("uid")))
    copies_N = np.ones(len(order_N), np.int64)
    copies_N[order_N[starts]] = np.diff(starts, append=len(order_N))
    return order_N[starts], copies_N


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all rows. Empties the list: at most one column is in memory twice."""
    columns = [[b.column(i) for b in batches] for i in range(len(_SCHEMA))]
    batches.clear()
    joined = []
    for i, field in enumerate(_SCHEMA):
        chunks, columns[i] = columns[i], []
        joined.append(pa.concat_arrays(chunks) if chunks else pa.array([], field.type))
        chunks.clear()
    return pa.record_batch(joined, schema=_SCHEMA)
