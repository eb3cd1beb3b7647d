"""Canonical shards of examples, read back and checked against the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mads_ray.hashing import checksum
from mads_ray.ledger import ShardRecord
from mads_ray.stored.damaged import damaged
from mads_ray.stored.tables import read_table


def read_examples(
    path: Path, columns: Sequence[str] | None = None, record: ShardRecord | None = None, **how: Any
) -> pa.Table:
    """Columns of a canonical shard (None: all), checked where its record in the ledger is given.

    With `record`, `columns` must have the uid. `how` goes to Arrow. Raises DamagedFileError where
    the file is not there, is torn or changed, or holds other examples than the ledger says.
    """
    table = read_table(path, _remedy(path), columns, **how)
    if record is None:
        return table
    uids = table.column("uid").to_pylist()
    try:
        found = (len(uids), checksum(uids))
    except (TypeError, ValueError):  # what is no uid
        found = (len(uids), "none")
    if found != (record.rows, record.checksum):
        wrong = (
            f"holds {found[0]} examples with checksum {found[1]}, the ledger has {record.rows} "
            f"with {record.checksum}"
        )
        raise damaged(path, wrong, _remedy(path))
    return table


def _remedy(path: Path) -> str:
    return (
        f"remove it and {path.parent / 'ledger.json'}, and run the command that read the corpus "
        "again: it reads the input once more and makes this shard anew; what was captured stays"
    )
