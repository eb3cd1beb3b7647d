"""The calibration sample on disk: pooled activations in groups, kept until capture is complete.

The calibration is fitted on them. Capture makes the states of these examples from them, so that
they do not run through the model twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mads_ray.storage import read_json, write_json, write_npy

F32 = npt.NDArray[np.float32]
GROUP_ROWS = 64


def write_group(
    folder: Path, group: int, uids: Sequence[str], acts_NLF: F32, hidden_NH: F32
) -> None:
    """Store one group of pooled examples. The list of uids is written last and commits it."""
    write_npy(folder / f"group-{group:05d}.acts.npy", acts_NLF)
    write_npy(folder / f"group-{group:05d}.hidden.npy", hidden_NH)
    write_json(folder / f"group-{group:05d}.json", list(uids))


class CalibrationSample:
    """Reads the groups of a folder. It is empty where there is no folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._at: dict[str, tuple[str, int]] = {}
        self._groups: list[str] = []
        for path in sorted(folder.glob("group-*.json")):
            if not path.with_suffix(".acts.npy").exists():
                continue  # of an older version
            self._groups.append(path.stem)
            self._at |= {uid: (path.stem, row) for row, uid in enumerate(read_json(path))}

    def __len__(self) -> int:
        return len(self._at)

    def pooled(self) -> list[F32]:
        """The pooled activations of every group in order: memory-mapped (n, L, F)."""
        return [self._map(group, "acts") for group in self._groups]

    def lookup(self, uids: Sequence[str]) -> dict[int, tuple[F32, F32]]:
        """(acts_LF, hidden_H) of the uids that are in the sample, by their position in `uids`."""
        found = {}
        for i, uid in enumerate(uids):
            if uid in self._at:
                group, row = self._at[uid]
                found[i] = (self._map(group, "acts")[row], self._map(group, "hidden")[row])
        return found

    def _map(self, group: str, kind: str) -> F32:
        path = self._folder / f"{group}.{kind}.npy"
        mapped: F32 = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped
