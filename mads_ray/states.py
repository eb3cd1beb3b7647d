"""Activation states on disk: one Parquet file for each canonical shard, and one manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mads_ray.errors import IncompleteError, MismatchError
from mads_ray.ledger import CorpusLedger, StateRecord, total_checksum
from mads_ray.run_folder import RunFolder
from mads_ray.storage import write_json
from mads_ray.stored.damaged import damaged
from mads_ray.stored.examples import read_examples
from mads_ray.stored.layout import Layout, layout_of_calibration, wrong_states
from mads_ray.stored.records import read_kept
from mads_ray.stored.tables import matrix_of, read_table

_CALIBRATE_AGAIN = (
    "and run the command that captured again: the calibration is made again, and shards of the "
    "same calibration stay"
)
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
        """Raises IncompleteError where there is none, DamagedFileError for one that is torn."""
        stored = read_kept(path, cls, f"remove it {_CALIBRATE_AGAIN}")
        if stored is None:
            raise IncompleteError(f"{path} does not exist: nothing was captured here yet")
        if not (stored.layers and stored.width and 0 < stored.neurons_per_layer <= stored.width):
            wrong = (
                f"has {stored.neurons_per_layer} active neurons of {stored.width} in each of "
                f"{stored.layers} layers"
            )
            raise damaged(path, wrong, f"remove it {_CALIBRATE_AGAIN}")
        return stored

    @property
    def layout(self) -> Layout:
        """The sizes of what each row holds."""
        return Layout(
            self.layers, self.width, self.neurons_per_layer, self.sketch_dim, self.hidden_dim
        )

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
    return matrix_of(table.column(column))


@dataclass(frozen=True, slots=True)
class CapturedShard:
    """The files of a captured shard, and what its marker and the manifest say of its states."""

    shard: int
    examples: Path
    states: Path
    rows: int
    checksum: str
    layout: Layout

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Columns of its states, checked: what is returned is what capture wrote.

        Raises DamagedFileError where the file is torn or changed, or holds other rows than its
        marker says, other columns than the manifest, or neurons that the model has not.
        """
        marker = self.states.with_suffix(".done.json")
        remedy = f"remove {marker} and run the command that captured again: it makes this file anew"
        table = read_table(self.states, remedy, columns)
        slots = self.layout.layers * self.layout.neurons_per_layer
        schema = states_schema(slots, self.layout.sketch_dim, self.layout.hidden_dim, raw=True)
        wrong = wrong_states(table, schema, self.layout, self.rows, self.checksum)
        if wrong is not None:
            raise damaged(self.states, wrong, remedy)
        return table


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
        if folder.calibration.exists():
            _require_calibration(folder, manifest)
        return cls(folder, ledger, manifest, folder.check_states(ledger, manifest.calibration))

    @property
    def shards(self) -> list[CapturedShard]:
        """Files of every shard that holds at least one state, in shard order."""
        folder, layout = self.folder, self.manifest.layout
        return [
            CapturedShard(
                r.shard,
                folder.shard_file(r.shard),
                folder.state_file(r.shard),
                r.captured,
                r.captured_checksum,
                layout,
            )
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


def _require_calibration(folder: RunFolder, manifest: StatesManifest) -> None:
    """Raise DamagedFileError where manifest and calibration are of other sizes.

    The columns alone do not tell 15 layers with 64 active neurons from 30 with 32.
    """
    mine, path = manifest.layout, folder.calibration
    found = layout_of_calibration(path, f"remove it and {folder.manifest}, {_CALIBRATE_AGAIN}")
    if replace(mine, hidden_dim=0) != found:
        wrong = f"is of {mine.told()}; {path} is of {found.told()}"
        raise damaged(folder.manifest, wrong, f"remove both, {_CALIBRATE_AGAIN}")


def of_captured(shard: CapturedShard, states: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of the examples file, for rows that have a state. Both files are sorted by uid."""
    rows = read_examples(shard.examples, ["uid", column])
    return rows.filter(pc.is_in(rows["uid"], states["uid"].combine_chunks())).column(column)
