"""Rows of features in memory: what lazy greedy works on and merge tasks send to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from mads_ray.corpus.identity import seeded_hash


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """N rows: `uids` bytes (32 hex digits), `tokens_N` int32, `neurons_NA` uint16 (index within
    its layer, layer-major), `paths_NP` int32 (tree nodes, coarse to fine)."""

    uids: npt.NDArray[np.bytes_]
    tokens_N: npt.NDArray[np.int32]
    neurons_NA: npt.NDArray[np.uint16]
    paths_NP: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.uids)

    def take(self, index: npt.NDArray[np.integer]) -> FeatureRows:
        """The rows at `index`, in its order."""
        return FeatureRows(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def concat(parts: Sequence[FeatureRows]) -> FeatureRows:
        """Union of disjoint parts."""
        names = [f.name for f in fields(FeatureRows)]
        return FeatureRows(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))

    def tie_rank(self, seed: int) -> npt.NDArray[np.int64]:
        """Rank of every row in the order (hash(uid, seed), uid), which breaks ties of gain."""
        if not len(self):
            return np.empty(0, np.int64)
        hashes = seeded_hash([u.decode() for u in self.uids], seed)
        order = np.lexsort((self.uids, hashes))
        rank = np.empty(len(self), np.int64)
        rank[order] = np.arange(len(self))
        return rank
