"""Rows of features: what lazy greedy works on, and what a bounded pool sends between nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import I32, I64, U16, U64
from mads_ray.hashing import TIES, hash_words


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """N rows: `uids_N2` uint64 (both halves of each uid), `tokens_N` int32, `neurons_NA` uint16
    (index within its layer, layer-major), `paths_NP` int32 (tree nodes, coarse to fine), `bonus_N`
    int64 (each row's own value in units of f), `groups_NT` int32 (its part in each of T
    partitions)."""

    uids_N2: U64
    tokens_N: I32
    neurons_NA: U16
    paths_NP: I32
    bonus_N: I64 = None  # type: ignore[assignment]
    groups_NT: I32 = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.bonus_N is None:
            object.__setattr__(self, "bonus_N", np.zeros(len(self.uids_N2), np.int64))
        if self.groups_NT is None:
            object.__setattr__(self, "groups_NT", np.zeros((len(self.uids_N2), 0), np.int32))

    def __len__(self) -> int:
        return len(self.uids_N2)

    def take(self, index: npt.NDArray[np.integer]) -> FeatureRows:
        """The rows at `index`, in its order."""
        return FeatureRows(*(getattr(self, f.name)[index] for f in fields(self)))

    def ungrouped(self) -> FeatureRows:
        """The same rows without partitions."""
        return replace(self, groups_NT=np.zeros((len(self), 0), np.int32))

    @staticmethod
    def concat(parts: Sequence[FeatureRows]) -> FeatureRows:
        """Union of disjoint parts."""
        if len(parts) == 1:
            return parts[0]
        names = [f.name for f in fields(FeatureRows)]
        return FeatureRows(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))

    def tie_rank(self, seed: int) -> I64:
        """Rank of every row in the order (hash(uid, seed), uid), which breaks ties of gain."""
        high, low = self.uids_N2.T
        rank = np.empty(len(self), np.int64)
        rank[np.lexsort((low, high, hash_words(high, low, seed, TIES)))] = np.arange(len(self))
        return rank
