"""Rows of features: what lazy greedy selects from, and what travels to where rows compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import I32, I64, U16, U64
from mads_ray.hashing import TIES, hash_words


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """N rows with A active neurons each. `FeatureRows.of` makes rows where most of it is default.

    Args:
        uids_N2: uint64 (N, 2), both halves of each row's uid. Ties of gain go by their hash.
        tokens_N: int32 (N,), what a row costs under a budget in tokens.
        neurons_NA: uint16 (N, A), number of each active neuron within its layer, layer by layer.
        paths_NP: int32 (N, P), the tree node that a row is in at each level, coarse to fine. Nodes
            are numbered over all levels.
        bonus_N: int64 (N,), what a row is worth by itself, in units of 2^-28; by default 0.
        groups_NT: int32 (N, T), the group that a row is in, in each of T partitions. Groups are
            numbered over all partitions. By default there is no partition.
    """

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

    @staticmethod
    def of(
        neurons_NA: U16,
        tokens_N: I32 | None = None,
        paths_NP: I32 | None = None,
        uids_N2: U64 | None = None,
    ) -> FeatureRows:
        """Rows by their neurons. By default a row costs a token, and its number is its uid."""
        n = len(neurons_NA)
        numbers = np.stack([np.zeros(n, np.uint64), np.arange(n, dtype=np.uint64)], axis=1)
        return FeatureRows(
            numbers if uids_N2 is None else uids_N2,
            np.ones(n, np.int32) if tokens_N is None else tokens_N,
            neurons_NA,
            np.empty((n, 0), np.int32) if paths_NP is None else paths_NP,
        )

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
