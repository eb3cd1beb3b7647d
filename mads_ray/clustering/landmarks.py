"""Which rows of a pool are like each other, counted among landmarks: exactly, shard by shard.

Two rows are alike where the cosine of their sketches is above `ALIKE`. Counting them among all rows
would take the square of the pool. So they are counted among landmarks: all rows of a small pool,
and about `LANDMARKS` of a large one, those with the smallest uids. A uid is a hash, so these are a
random sample. Which rows they are depends on the uids alone, not on shards, their order or a
restart, and landmarks of shards merge by union.

Everything is exact. The directions of sketches become integers of 8 bits, whose products of 256
stay below 2^24: float32 holds every partial sum, so a matrix product is the same in any order, on
any machine and on a GPU. N rows, M landmarks, S sketch length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F32, I32, U64, Mask
from mads_ray.storage import write_npz
from mads_ray.stored.arrays import Shape, read_npz

# From 0.2 to 0.3 core sets reach as many tasks; from 0.4 on too few rows are alike
# (docs/evidence.md).
ALIKE = 0.22
LANDMARKS = 2048  # half as many are level in quality; more would cost as much as clustering
_EXACT = 2**24  # float32 holds every whole number below it
_BLOCK_ROWS = 1024

I8 = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Some rows of the pool, in ascending order of their uids.

    `uids_M2` uint64, halves of uids; `directions_MS` int8 (see `directions_of`); `places_M2` int32:
    shard and row in its states, shard -1 for a row of a base core set.
    """

    uids_M2: U64
    directions_MS: I8
    places_M2: I32

    @classmethod
    def merge(cls, parts: Sequence[Landmarks]) -> Landmarks:
        """The union. A row of the pool goes before the same row of a base core set."""
        uids, directions, places = (
            np.concatenate([getattr(p, name) for p in parts]) for name in cls.__slots__
        )
        order = np.lexsort((-places[:, 0], uids[:, 1], uids[:, 0]))
        first = np.ones(len(order), bool)
        first[1:] = (uids[order[1:]] != uids[order[:-1]]).any(1)
        return cls(*(column[order[first]] for column in (uids, directions, places)))

    def __len__(self) -> int:
        return len(self.uids_M2)

    def save(self, path: Path) -> None:
        """Write an .npz file without pickled objects, whole or not at all."""
        write_npz(path, **{name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def load(cls, path: Path) -> Landmarks:
        """Read what `save` wrote. Raises DamagedFileError for a file that is torn or foreign."""
        wanted: dict[str, tuple[str, Shape]] = {
            "uids_M2": ("u", (None, 2)),
            "directions_MS": ("i", (None, None)),
            "places_M2": ("i", (None, 2)),
        }
        z = read_npz(path, "it is made again", wanted)
        return cls(*(z[name] for name in cls.__slots__))

    def count_alike(self, shard: int, directions_NS: I8) -> I32:
        """How many landmarks are like each row of a shard, the row itself left out: int32 (N,)."""
        found = [near_NM.sum(1) for near_NM in self.alike(directions_NS)]
        counts_N = np.concatenate([*found, np.empty(0, np.int64)])
        own = self.places_M2[self.places_M2[:, 0] == shard, 1]
        counts_N[own] -= directions_NS[own].any(1)  # without a direction it was not like itself
        return counts_N.astype(np.int32)

    def alike(self, directions_NS: I8) -> Iterator[Mask]:
        """Which landmarks each row is like, bool (N, M), in blocks of rows.

        A row without a direction (a sketch of zeros) is like none, not even itself.
        """
        landmarks_MS = self.directions_MS.astype(np.float32)
        length_M = _lengths(self.directions_MS)
        for start in range(0, len(directions_NS), _BLOCK_ROWS):
            block_NS = directions_NS[start : start + _BLOCK_ROWS]
            products_NM = _products(block_NS.astype(np.float32), landmarks_MS)
            # Rounded, but everywhere alike: IEEE arithmetic of single numbers.
            yield products_NM > (_lengths(block_NS) * np.float32(ALIKE))[:, None] * length_M


def threshold(rows: int) -> np.uint64:
    """The upper half of a uid up to which a row is a landmark, in a pool of so many rows."""
    share = min(1.0, LANDMARKS / max(1, rows))
    return np.uint64(2**64 - 1) if share == 1 else np.uint64(int(share * 2**64))


def directions_of(sketches_NS: npt.NDArray[np.floating]) -> I8:
    """Directions as integers (N, S): the largest coordinate of a row becomes 127, or as much less
    as it takes to keep products exact where sketches are longer than 1,040."""
    most = min(127, math.isqrt((_EXACT - 1) // max(1, sketches_NS.shape[1])))
    x_NS = sketches_NS.astype(np.float32)
    largest_N1 = np.abs(x_NS).max(1, keepdims=True, initial=0)
    scale_N1 = np.float32(most) / np.where(largest_N1 > 0, largest_N1, np.float32(1))
    return np.rint(x_NS * scale_N1).astype(np.int8)


def _lengths(directions_NS: I8) -> F32:
    length_N: F32 = np.sqrt((directions_NS.astype(np.int64) ** 2).sum(1)).astype(np.float32)
    return length_N


def _products(a_NS: F32, b_MS: F32) -> F32:
    """a b', by a GPU where this process has one and faiss was built for it."""
    products_NM: F32
    if getattr(faiss, "get_num_gpus", int)():
        how: Any = {"metric": faiss.METRIC_INNER_PRODUCT}
        products_NM = faiss.pairwise_distance_gpu(_gpu(), a_NS, b_MS, **how)
    else:
        products_NM = a_NS @ b_MS.T
    return products_NM


@cache
def _gpu() -> Any:
    """What faiss keeps for calls on a GPU; made once, because it reserves memory there."""
    return faiss.StandardGpuResources()
