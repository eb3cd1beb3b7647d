"""Activation states on disk: one Parquet file a canonical shard, and the manifest they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mads_ray.errors import IncompleteError, MismatchError
from mads_ray.ledger import StateRecord, total_checksum
from mads_ray.run_folder import RunFolder
from mads_ray.storage import read_json, write_json

_FORMER_NAMES = {"tokens": "token_scope"}  # of settings, in the manifests of older states


@dataclass(frozen=True, slots=True)
class StatesManifest:
    """The identity of every state in a folder. States of unequal manifests do not mix."""

    engine: str
    model: str
    revision: str
    dtype: str
    layers: int
    width: int
    neurons_per_layer: int
    sketch_dim: int
    hidden_dim: int  # 0 when the hidden state is not stored
    max_tokens: int
    calibration: str  # digest
    calibration_tokens: int  # computed for the calibration sample, which capture does not repeat
    calibration_padded_tokens: int
    requested: dict[str, Any]  # the settings as asked for, where they may differ from the above
    raw: bool = False  # whether there is a column raw_neurons
    template: str = ""  # hash of the chat template, "none" without one; "": older states
    date: str = ""  # the day on which the template rendered; "": older states

    def save(self, path: Path) -> None:
        """Write manifest.json."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> StatesManifest:
        """Raises IncompleteError when there is none."""
        stored = read_json(path)
        if stored is None:
            raise IncompleteError(f"{path} does not exist: nothing was captured here yet")
        return cls(**stored)

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for; settings that older states do not know had these values."""
        older = {
            "calibration_from": None,
            "token_scope": "all",
            "pooling": "max",
            "hook_module": None,
            "compile": False,
            "tensor_parallel": 1,
        }
        return older | {_FORMER_NAMES.get(name, name): v for name, v in self.requested.items()}

    def differences(self, wanted: dict[str, Any]) -> list[str]:
        """One line for every setting that is not as `wanted`."""
        mine = {"store_raw": self.raw} | asdict(self) | self.settings
        return [
            f"{name}: stored {mine[name]!r}, wanted {value!r}"
            for name, value in wanted.items()
            if mine[name] != value
        ]

    def require(self, wanted: dict[str, Any], folder: Path) -> None:
        """Raise MismatchError that spells the differences to `wanted` out."""
        found = self.differences(wanted)
        if found:
            raise MismatchError(
                f"{folder} holds states of another model or calibration:\n  "
                + "\n  ".join(found)
                + "\nUse another --output, or the stored settings."
            )


def states_schema(slots: int, sketch_dim: int, hidden_dim: int, raw: bool = False) -> pa.Schema:
    """`neurons`: uint16 index within its layer, layer-major, ascending in each layer.

    `raw_neurons` is laid out alike: the largest pooled |activation|, not standardised.
    """
    fields = [
        ("uid", pa.string()),
        ("row_id", pa.int64()),
        ("n_tokens", pa.int32()),
        ("cut_tokens", pa.int32()),
        ("neurons", pa.list_(pa.uint16(), slots)),
        ("sketch", pa.list_(pa.float16(), sketch_dim)),
    ]
    if hidden_dim:
        fields.append(("hidden", pa.list_(pa.float16(), hidden_dim)))
    if raw:
        fields.append(("raw_neurons", pa.list_(pa.uint16(), slots)))
    return pa.schema(fields)


def fixed_list(array_2d: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """A 2-D array as an Arrow column without copying its values."""
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(array_2d).reshape(-1)), array_2d.shape[1]
    )


def read_matrix(table: pa.Table, column: str) -> npt.NDArray[Any]:
    """A fixed-size list column as a 2-D array of shape (rows, list size)."""
    size = table.schema.field(column).type.list_size
    chunks = [c.flatten().to_numpy(zero_copy_only=False) for c in table.column(column).chunks]
    flat = np.concatenate(chunks) if chunks else np.empty(0)
    return flat.reshape(-1, size)


def read_states(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of one shard's states."""
    return pq.read_table(path, columns=list(columns))


@dataclass(frozen=True, slots=True)
class CapturedShard:
    """A captured shard, by its files."""

    shard: int
    examples: Path
    states: Path


def captured_shards(folder: RunFolder, records: list[StateRecord]) -> list[CapturedShard]:
    """Files of every shard that holds at least one state, in shard order."""
    return [
        CapturedShard(r.shard, folder.shard_file(r.shard), folder.state_file(r.shard))
        for r in records
        if r.captured
    ]


def of_captured(shard: CapturedShard, states: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of the examples file for the rows that have a state (both are sorted by uid)."""
    rows = pq.read_table(shard.examples, columns=["uid", column])
    return rows.filter(pc.is_in(rows["uid"], states["uid"].combine_chunks())).column(column)


def states_checksum(records: list[StateRecord]) -> str:
    """Of which examples there are states, by which calibration."""
    return f"{records[0].calibration}:{total_checksum(records)}"
