"""Arrays in .npz and .npy files, read back whole: a .npz file has a checksum of each array."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.stored.damaged import damaged, naming

Shape = tuple[int | None, ...]  # None: any length


def read_npz(
    path: Path, remedy: str, wanted: Mapping[str, tuple[str, Shape]], only: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a .npz file by name.

    `wanted`: kind of the dtype (numpy's letter: "i", "u", "f", "U") and shape of each array that
    must be there; others are returned as they are, or not read where `only`. Raises
    DamagedFileError, with the remedy, for a file that is not there, is torn, or has other arrays.
    """
    with naming(path, remedy), np.load(path, allow_pickle=False) as z:
        names = [n for n in z.files if n in wanted or not only]
        found = {name: z[name] for name in names}  # zipfile checks each CRC to the end
    for name, (kind, shape) in wanted.items():
        if name not in found:
            raise damaged(path, f"holds no array {name}", remedy)
        _require(path, name, found[name], kind, shape, remedy)
    return found


def read_npy(path: Path, remedy: str, kind: str, shape: Shape) -> npt.NDArray[Any]:
    """The array of a .npy file. Raises as `read_npz`."""
    with naming(path, remedy):
        found: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    _require(path, "array", found, kind, shape, remedy)
    return found


def _require(
    path: Path, name: str, array: npt.NDArray[Any], kind: str, shape: Shape, remedy: str
) -> None:
    fits = len(array.shape) == len(shape) and all(
        b is None or a == b for a, b in zip(array.shape, shape, strict=True)
    )
    if array.dtype.kind != kind or not fits:
        sizes = " x ".join("any" if n is None else str(n) for n in shape)
        wrong = f"has {name} of {array.dtype} and shape {array.shape}, not {kind!r} and ({sizes})"
        raise damaged(path, wrong, remedy)
