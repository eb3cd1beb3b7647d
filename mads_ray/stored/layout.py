"""What states must be before anything is computed from them: sizes, bounds, rows and order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mads_ray.hashing import checksum_of_words
from mads_ray.stored.arrays import Shape, read_npz
from mads_ray.stored.tables import matrix_of, words_of


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes of a state. `hidden_dim` is 0 where the hidden state is not stored."""

    layers: int
    width: int
    neurons_per_layer: int
    sketch_dim: int
    hidden_dim: int

    def told(self) -> str:
        """The sizes that a calibration has, in words."""
        return (
            f"{self.layers} layers of {self.width} neurons, {self.neurons_per_layer} active "
            f"neurons in each and sketches of {self.sketch_dim}"
        )


def layout_of_calibration(path: Path, remedy: str) -> Layout:
    """The sizes of a calibration (`capture.calibration`). Raises DamagedFileError, with remedy."""
    wanted: dict[str, tuple[str, Shape]] = {
        "mean_LF": ("f", (None, None)),
        "centre_S": ("f", (None,)),
        "scalars": ("i", (2,)),
    }
    found = read_npz(path, remedy, wanted, only=True)
    layers, width = found["mean_LF"].shape
    return Layout(layers, width, int(found["scalars"][0]), len(found["centre_S"]), 0)


class _WrongError(ValueError):
    """What is wrong with a file of states, to go on after its path."""


def wrong_states(
    table: pa.Table, schema: pa.Schema, layout: Layout, rows: int, checksum: str
) -> str | None:
    """What is wrong with columns of a shard's states, to go on after the file's path; else None.

    `schema`: all columns that there may be. `rows`, `checksum`: by the shard's marker.
    """
    try:
        _require_columns(table, schema, rows)
        if "uid" in table.column_names:
            _require_uids(table, checksum)
        for name in {"neurons", "raw_neurons"} & set(table.column_names):
            _require_neurons(name, matrix_of(table.column(name)), layout)
        for name in {"sketch", "hidden"} & set(table.column_names):
            # As bits: numpy knows float16 by way of float32.
            bits = matrix_of(table.column(name)).view(np.uint16)
            if bits.size and int((bits & 0x7FFF).max()) >= 0x7C00:
                raise _WrongError(f"has a {name} that is not finite")
    except _WrongError as e:
        return str(e)
    return None


def wrong_uids(table: pa.Table, rows: int, checksum: str) -> str | None:
    """What is wrong with the rows of a table beside a shard's states, as `wrong_states`."""
    if table.num_rows != rows:
        return f"holds {table.num_rows} rows, the states {rows}"
    try:
        _require_uids(table, checksum)
    except _WrongError as e:
        return str(e)
    return None


def _require_columns(table: pa.Table, schema: pa.Schema, rows: int) -> None:
    if table.num_rows != rows:
        raise _WrongError(f"holds {table.num_rows} rows, its marker says {rows}")
    for field in table.schema:
        wanted = schema.field(field.name).type if field.name in schema.names else None
        if field.type != wanted:
            raise _WrongError(
                f"has the column {field.name} as {field.type}, by the manifest it is {wanted}"
            )
        if table.column(field.name).null_count:
            raise _WrongError(f"has no value in some row of {field.name}")


def _require_uids(table: pa.Table, checksum: str) -> None:
    try:
        words_N2 = words_of(table)
    except ValueError as e:
        raise _WrongError("has a uid that is none") from e
    found = checksum_of_words(words_N2)
    if found != checksum:
        raise _WrongError(
            f"holds other examples than the marker of the states says (checksum {found}, not "
            f"{checksum})"
        )
    high_N, low_N = words_N2[:, 0], words_N2[:, 1]
    same = high_N[1:] == high_N[:-1]
    if not ((high_N[1:] > high_N[:-1]) | (same & (low_N[1:] > low_N[:-1]))).all():
        raise _WrongError("has its rows in another order than that of their uids")


def _require_neurons(name: str, neurons_NA: npt.NDArray[Any], layout: Layout) -> None:
    """Neurons must ascend in their layer, and be below its width: no kernel leaves its arrays."""
    in_layers = neurons_NA.reshape(-1, layout.neurons_per_layer)
    if not (in_layers[:, 1:] > in_layers[:, :-1]).all():
        raise _WrongError(f"has {name} that do not ascend within a layer")
    if len(in_layers) and int(in_layers[:, -1].max()) >= layout.width:
        raise _WrongError(
            f"has a neuron {in_layers[:, -1].max()} in {name}; by the manifest a layer has "
            f"{layout.width}"
        )
