"""Shards loaded by a process: small columns in memory, neurons in a memory-mapped file.

The neurons of a shard are mapped while they are used, and unmapped after that. So a process holds
the neurons of one shard at a time. What stays in the page cache is the kernel's choice.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64, I32, I64, U16, U64, Mask
from mads_ray.hashing import RandomStream, hash_words
from mads_ray.submodular.rows import FeatureRows


class Scratch:
    """An append-only file of uint16 matrices that nobody else sees and that dies with us."""

    def __init__(self, folder: str | None) -> None:
        # Unlinked at once: the space comes back however this process ends.
        self._file = tempfile.TemporaryFile(prefix="mads_ray-", dir=folder)  # noqa: SIM115
        self._end = 0

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._end

    def append(self, matrix: U16) -> int:
        """Store a C-contiguous matrix; return its offset, a multiple of the mapping granularity."""
        offset = self._end
        self._file.seek(offset)
        self._file.write(np.ascontiguousarray(matrix).data)
        self._file.flush()
        step = mmap.ALLOCATIONGRANULARITY
        self._end = -(-(offset + matrix.nbytes) // step) * step
        self._file.truncate(self._end)
        return offset

    def map(self, offset: int, shape: tuple[int, int]) -> U16:
        """A read-only view; its pages are given back when the last reference to it goes."""
        nbytes = shape[0] * shape[1] * 2
        if not nbytes:
            return np.empty(shape, np.uint16)
        mapped = mmap.mmap(self._file.fileno(), nbytes, access=mmap.ACCESS_READ, offset=offset)
        return np.frombuffer(mapped, np.uint16).reshape(shape)


@dataclass(slots=True, eq=False)
class LoadedShard:
    """The rows of one canonical shard, and which sets each of them is in.

    `depth_N` int8: the depth of the smallest set that a row is in, 0 for the core set, d for the
    d-th of ever smaller sets that rank it (see pipeline/select/rank.py); -1 for a candidate that is
    in none; -2 for a row that may not be selected. `rank_N`: order of equal gains within the shard,
    `ties_N`: the hash that it follows. `quality_N`: the users' column that bonuses come from.
    """

    shard: int
    uids_N2: U64
    tokens_N: I32
    paths_NP: I32
    bonus_N: I64
    groups_NT: I32
    rank_N: I64
    ties_N: U64
    scratch: Scratch
    offset: int
    slots: int
    quality_N: F64 | None = None
    row_N: I32 | None = None  # where only some rows of the shard are here: their numbers, ascending
    depth_N: npt.NDArray[np.int8] = field(init=False)

    def __post_init__(self) -> None:
        self.depth_N = np.full(len(self.uids_N2), -1, np.int8)

    def __len__(self) -> int:
        return len(self.uids_N2)

    def candidates(self, depth: int) -> Mask:
        """Rows that the set of a depth may hold: those of the set one less deep."""
        return self.depth_N >= depth - 1

    def selected(self, depth: int) -> Mask:
        """Rows in the set of a depth, and so in all that are less deep."""
        return self.depth_N >= depth

    def hashes(self, stream: RandomStream) -> U64:
        """Hash of every row in a random order."""
        return hash_words(self.uids_N2[:, 0], self.uids_N2[:, 1], *stream)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        columns = (self.uids_N2, self.tokens_N, self.paths_NP, self.bonus_N, self.groups_NT)
        return sum(c.nbytes for c in (*columns, self.rank_N, self.ties_N, self.depth_N))

    def rows(self) -> FeatureRows:
        """All rows, with mapped neurons: let go of them soon."""
        return FeatureRows(
            self.uids_N2,
            self.tokens_N,
            self.scratch.map(self.offset, (len(self), self.slots)),
            self.paths_NP,
            self.bonus_N,
            self.groups_NT,
        )

    def places(self) -> I32:
        """(shard, row) of every row, int32 (N, 2)."""
        rows = np.arange(len(self), dtype=np.int32) if self.row_N is None else self.row_N
        return np.stack([np.full(len(self), self.shard, np.int32), rows], axis=1)

    def narrowed(self, index: I64, scratch: Scratch) -> LoadedShard:
        """The rows at `index` (ascending) alone, with a copy of their neurons in `scratch`.

        Reading a few rows out of a mapped file reads nearly all of it.
        """
        inner = LoadedShard(
            self.shard,
            self.uids_N2[index],
            self.tokens_N[index],
            self.paths_NP[index],
            self.bonus_N[index],
            self.groups_NT[index],
            self.rank_N[index],
            self.ties_N[index],
            scratch,
            scratch.append(self.rows().neurons_NA[index]),
            self.slots,
            row_N=self.places()[index, 1],
        )
        inner.depth_N[:] = self.depth_N[index]
        return inner

    def index_of(self, rows_K: I32) -> I64:
        """Positions here of row numbers of the shard."""
        if self.row_N is None:
            return rows_K.astype(np.int64)
        return np.searchsorted(self.row_N, rows_K).astype(np.int64)


def rows_of(shards: Iterable[LoadedShard], places_K2: I32) -> list[tuple[LoadedShard, I64]]:
    """The places that are among some shards, as (shard, its rows), by shard number."""
    at = places_by_shard(places_K2)
    ordered = sorted(shards, key=lambda s: s.shard)
    return [(s, s.index_of(places_K2[at[s.shard], 1])) for s in ordered if s.shard in at]


def places_by_shard(places_K2: I32) -> dict[int, I64]:
    """Positions in `places_K2` of each shard's rows, ascending."""
    order = np.argsort(places_K2[:, 0], kind="stable")
    numbers, starts = np.unique(places_K2[order, 0], return_index=True)
    stops = np.append(starts, len(order))[1:]
    return {int(s): order[a:b] for s, a, b in zip(numbers, starts, stops, strict=True)}
