"""Parquet files, read back with the checksums of their pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mads_ray.arrays import U64
from mads_ray.hashing import uid_words
from mads_ray.stored.damaged import damaged, naming


def read_table(
    path: Path, remedy: str, columns: Sequence[str] | None = None, **how: Any
) -> pa.Table:
    """Some columns of a Parquet file (None: all).

    Pages have checksums (`storage.write_parquet`), so a bit that changed on the disk is found; in
    files of older versions they have none. `how` goes to Arrow. Raises DamagedFileError, with the
    remedy, where the file is not there, torn, changed or no Parquet, or lacks a column.
    """
    names = None if columns is None else list(columns)
    with naming(path, remedy):
        # A path would be taken for a part of a partitioned dataset, by the names of its folders.
        table = pq.read_table(
            path, columns=names, partitioning=None, page_checksum_verification=True, **how
        )
    lacking = [n for n in names or () if n not in table.column_names]
    if lacking:
        raise damaged(path, f"has no column {lacking[0]!r}", remedy)
    return table


def parquet_rows(path: Path) -> int | None:
    """Rows of a Parquet file by its footer; None where the file is absent or torn."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowInvalid):
        return None


def matrix_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A fixed-size list column as a 2-D array of shape (rows, list size)."""
    chunks = [c.flatten().to_numpy(zero_copy_only=False) for c in column.chunks]
    flat = np.concatenate(chunks) if chunks else np.empty(0)
    return flat.reshape(-1, column.type.list_size)


def words_of(table: pa.Table) -> U64:
    """Halves of the uids of a table, uint64 (N, 2). Raises ValueError for what is no uid."""
    uids = table.column("uid").combine_chunks().cast(pa.binary())
    if len(uids) and not pc.all(pc.equal(pc.binary_length(uids), 32)).as_py():
        raise ValueError("not all uids have 32 digits")
    # All at once from Arrow's buffer: a Python object for each row takes ten times as long.
    start, data = 32 * uids.offset, uids.buffers()[2]
    digits = b"" if data is None else data[start : start + 32 * len(uids)].to_pybytes()
    return np.stack(uid_words([digits.decode("ascii")]), axis=1)
