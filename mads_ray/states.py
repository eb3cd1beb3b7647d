"""Activation states on disk: one Parquet file for each canonical shard, and one manifest."""

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
from mads_ray.ledger import CorpusLedger, StateRecord, total_checksum
from mads_ray.run_folder import RunFolder
from mads_ray.storage import read_json, write_json

_FORMER_NAMES = {"tokens": "token_scope"}  # of settings, in the manifests of older states


@dataclass(frozen=True, slots=True)
class StatesManifest:
    """What made the states in a folder. States of unequal manifests must not be mixed."""

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
    calibration_tokens: int  # of the calibration sample, which capture does not run again
    calibration_padded_tokens: int
    requested: dict[str, Any]  # the settings as the user gave them
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
        """The settings as the user gave them. Older states lack some, which had the values here."""
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
        """One line for each setting that differs from `wanted`."""
        mine = {"store_raw": self.raw} | asdict(self) | self.settings
        return [
            f"{name}: stored {mine[name]!r}, wanted {value!r}"
            for name, value in wanted.items()
            if mine[name] != value
        ]

    def require(self, wanted: dict[str, Any], folder: Path) -> None:
        """Raise MismatchError with all differences from `wanted`, if there are any."""
        found = self.differences(wanted)
        if found:
            raise MismatchError(
                f"{folder} holds states of another model or calibration:\n  "
                + "\n  ".join(found)
                + "\nUse another --output, or the stored settings."
            )


def states_schema(slots: int, sketch_dim: int, hidden_dim: int, raw: bool = False) -> pa.Schema:
    """The columns of a states file.

    `neurons`: uint16 indices within the layer, layer after layer, ascending in each layer.
    `raw_neurons`: the same layout, for the largest pooled |activation|, not standardised.
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
    """The files of a captured shard."""

    shard: int
    examples: Path
    states: Path


@dataclass(frozen=True, slots=True, eq=False)
class CapturedStates:
    """All states of one corpus under one calibration, checked against its ledger.

    `records`: the marker of every canonical shard, in shard order.
    """

    folder: RunFolder
    ledger: CorpusLedger
    manifest: StatesManifest
    records: tuple[StateRecord, ...]

    @classmethod
    def open(cls, folder: RunFolder) -> CapturedStates:
        """The states in a run folder. Raises IncompleteError unless each example of its corpus is
        captured or in quarantine."""
        ledger, manifest = folder.load_ledger(), StatesManifest.load(folder.manifest)
        return cls(folder, ledger, manifest, folder.check_states(ledger, manifest.calibration))

    @property
    def shards(self) -> list[CapturedShard]:
        """Files of every shard that holds at least one state, in shard order."""
        return [
            CapturedShard(r.shard, self.folder.shard_file(r.shard), self.folder.state_file(r.shard))
            for r in self.records
            if r.captured
        ]

    @property
    def examples(self) -> int:
        """How many examples have a state."""
        return sum(r.captured for r in self.records)

    @property
    def checksum(self) -> str:
        """A checksum of the uids that have a state, and of the calibration."""
        return f"{self.manifest.calibration}:{total_checksum(self.records)}"

    @property
    def source_files(self) -> tuple[str, ...]:
        """Paths of the corpus's files, in their order."""
        return tuple(f["path"] for f in self.identity["files"])

    @property
    def identity(self) -> dict[str, Any]:
        """What the corpus was made from: its `files`, and the settings in `corpus`."""
        found = self.folder.corpus_identity()
        assert found is not None
        return found


def of_captured(shard: CapturedShard, states: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of the examples file, for rows that have a state. Both files are sorted by uid."""
    rows = pq.read_table(shard.examples, columns=["uid", column])
    return rows.filter(pc.is_in(rows["uid"], states["uid"].combine_chunks())).column(column)
