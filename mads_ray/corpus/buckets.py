"""A file of rows in numbered buckets, any range of which is read with two reads.

It begins with where each bucket begins, so a reader needs no footer, however many buckets there
are. A bucket is one zstd-compressed Arrow record batch; an empty one takes no space.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from mads_ray.arrays import I64
from mads_ray.storage import write_whole

_MAGIC = b"MRBUCKT1"
_HEAD = len(_MAGIC) + 8  # and the number of buckets


def write_buckets(path: Path, rows: pa.RecordBatch, order_N: I64, ends_B: I64) -> None:
    """Write rows, whole or not at all.

    `order_N`: the rows to write, in their order. `ends_B`: how many of them are in the buckets up
    to each one.
    """

    def write(temporary: Path) -> None:
        starts = np.zeros(len(ends_B) + 1, "<i8")
        with temporary.open("wb") as f:
            f.write(_MAGIC + len(ends_B).to_bytes(8, "little") + starts.tobytes())
            options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
            with pa.ipc.new_stream(f, rows.schema, options=options) as stream:
                stream.write_batch(rows.slice(0, 0))  # the schema is written with the first batch
                begin = 0
                for bucket, end in enumerate(ends_B.tolist()):
                    starts[bucket] = f.tell()
                    if end > begin:
                        stream.write_batch(rows.take(pa.array(order_N[begin:end])))
                    begin = end
                starts[-1] = f.tell()
            f.seek(_HEAD)
            f.write(starts.tobytes())

    write_whole(path, write)


def count_buckets(path: Path) -> int:
    """How many buckets a file has."""
    with path.open("rb", buffering=0) as f:
        return _count(f.fileno(), path)


def read_buckets(
    path: Path, first: int, stop: int, schema: pa.Schema
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the number and the rows of each bucket from `first` on before `stop` that has rows.

    `schema` must be that of the rows that were written: the file is not asked for it. Raises
    OSError for a file that is cut short.
    """
    with path.open("rb", buffering=0) as f:
        yield from _buckets(f.fileno(), path, first, stop, schema)


def read_share(
    path: Path, low: int, high: int, bits: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the buckets that hold keys in [low, high) of `bits` bits.

    The number of buckets is a power of two, and the first bits of a key are its bucket.
    """
    with path.open("rb", buffering=0) as f:
        shift = bits + 1 - _count(f.fileno(), path).bit_length()
        first, stop = low >> shift, ((high - 1) >> shift) + 1
        for _, batch in _buckets(f.fileno(), path, first, stop, schema):
            yield batch


def _buckets(
    file: int, path: Path, first: int, stop: int, schema: pa.Schema
) -> Iterator[tuple[int, pa.RecordBatch]]:
    if first >= stop:
        return
    head = _read(file, path, _HEAD + 8 * first, 8 * (stop - first + 1))
    starts = np.frombuffer(head, "<i8")
    begin, end = int(starts[0]), int(starts[-1])
    data = b"".join([schema.serialize(), _read(file, path, begin, end - begin)])
    options = pa.ipc.IpcReadOptions(use_threads=False)
    with pa.ipc.open_stream(data, options=options) as stream:
        for bucket in np.flatnonzero(np.diff(starts)).tolist():
            yield first + bucket, stream.read_next_batch()


def _count(file: int, path: Path) -> int:
    head = _read(file, path, 0, _HEAD)
    if head[: len(_MAGIC)] != _MAGIC:
        raise OSError(f"{path}: not a file of buckets; delete its folder and run again")
    return int.from_bytes(head[len(_MAGIC) :], "little")


def _read(file: int, path: Path, at: int, size: int) -> bytes:
    """`size` bytes from `at` on. One call reads at most 2 GiB."""
    parts = []
    while size > 0:
        part = os.pread(file, min(size, 1 << 30), at)
        if not part:
            raise OSError(f"{path}: cut short; delete its folder and run again")
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
