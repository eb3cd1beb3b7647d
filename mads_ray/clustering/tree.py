"""The cluster tree: leaves by k-means, joined by Ward's agglomeration, cut at a few levels.

Nodes are numbered level by level, from coarse to fine. C leaves, P levels, S sketch length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F32, I32
from mads_ray.clustering.agglomerate import cut, weighted_ward
from mads_ray.clustering.summaries import SketchSummary, weighted_kmeans
from mads_ray.storage import write_npz
from mads_ray.stored.arrays import Shape, read_npz
from mads_ray.stored.damaged import damaged

# Sketches and centroids become integers of 14 bits. Every partial sum of their products is then an
# integer below 2^53, so float64 matrix products are exact for any order and block size, and an
# example gets the same leaf on any machine and in any shard.
_QUANTUM = 2.0**14
_BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class ClusterTree:
    """The cluster tree.

    `centroids_CS`: int32, quantised. `paths_CP`: int32, for each leaf its nodes from the coarsest
    level down to itself. `level_sizes`: how many nodes each level has. `unit`: whether sketches
    count at unit length, by their directions alone.
    """

    centroids_CS: I32
    paths_CP: I32
    level_sizes: tuple[int, ...]
    unit: bool = False

    def save(self, path: Path) -> None:
        """Write an .npz file without pickled objects, whole or not at all."""
        write_npz(
            path,
            centroids_CS=self.centroids_CS,
            paths_CP=self.paths_CP,
            level_sizes=np.array(self.level_sizes, np.int64),
            **({"unit": np.array(True)} if self.unit else {}),
        )

    @classmethod
    def load(
        cls, path: Path, sketch_dim: int | None = None, remedy: str = "make it again"
    ) -> ClusterTree:
        """Read what `save` wrote, for sketches of this length (None: any).

        Raises DamagedFileError, with the remedy, for a file that is torn or holds no such tree.
        """
        wanted: dict[str, tuple[str, Shape]] = {
            "centroids_CS": ("i", (None, sketch_dim)),
            "paths_CP": ("i", (None, None)),
            "level_sizes": ("i", (None,)),
        }
        z = read_npz(path, remedy, wanted)
        tree = cls(
            z["centroids_CS"],
            z["paths_CP"],
            tuple(int(n) for n in z["level_sizes"]),
            "unit" in z,
        )
        leaves, levels = tree.paths_CP.shape
        starts = np.cumsum([0, *tree.level_sizes])
        if (
            (leaves, levels) != (len(tree.centroids_CS), len(tree.level_sizes))
            or not leaves
            or (tree.paths_CP < starts[:-1]).any()
            or (tree.paths_CP >= starts[1:]).any()
        ):
            raise damaged(path, "holds no tree: its paths leave their levels", remedy)
        return tree

    @property
    def nodes(self) -> int:
        """Number of nodes in all levels."""
        return sum(self.level_sizes)

    def assign(self, sketches_NS: npt.NDArray[np.floating]) -> tuple[I32, npt.NDArray[np.float64]]:
        """The nearest leaf (N,) and the squared distance to it (N,). Ties go to the lower leaf."""
        leaves = np.empty(len(sketches_NS), np.int32)
        distances = np.empty(len(sketches_NS), np.float64)
        centroids = self.centroids_CS.astype(np.float64)
        norms_C = (centroids**2).sum(1)
        for start in range(0, len(sketches_NS), _BLOCK_ROWS):
            some_NS = sketches_NS[start : start + _BLOCK_ROWS]
            block = _quantise(unit_sketches(some_NS) if self.unit else some_NS)
            d_NC = norms_C - 2 * (block @ centroids.T)
            stop = start + len(block)
            leaves[start:stop] = d_NC.argmin(1)
            nearest = d_NC[np.arange(len(block)), leaves[start:stop]]
            distances[start:stop] = (nearest + (block**2).sum(1)) / _QUANTUM**2
        return leaves, distances


def default_levels(examples: int) -> tuple[int, ...]:
    """Powers of two from 8 to 1024, to 4096 from 10^6 examples on; at most half the examples.

    A level works best for a budget of about as many rows as it has clusters; a larger budget uses
    the finest level (docs/evidence.md).
    """
    most = min(4096 if examples >= 1_048_576 else 1024, examples // 2)
    return tuple(2**i for i in range(3, 13) if 2**i <= most) or (max(1, most),)


def build_tree(
    summary: SketchSummary,
    levels: Sequence[int],
    iterations: int,
    seed: int,
    unit: bool = False,
) -> ClusterTree:
    """Build a tree of nested levels from the summary of the corpus. `levels`: clusters in each.

    `unit`: whether the summary is of sketches at unit length.
    """
    sizes = sorted({min(n, len(summary.points_PS)) for n in levels})
    centroids = _quantise(weighted_kmeans(summary, sizes[-1], iterations, seed)).astype(np.int32)
    centroids = np.unique(centroids, axis=0)
    leaves = len(centroids)
    flat = ClusterTree(centroids, np.arange(leaves, dtype=np.int32)[:, None], (leaves,))
    nearest, _ = flat.assign(summary.points_PS)
    weights = np.bincount(nearest, summary.weights_P, leaves).astype(np.int64)
    # k-means may leave an empty leaf. It counts as a light one, which joins first.
    merges = weighted_ward(centroids / _QUANTUM, np.maximum(weights, 1))
    labels = [cut(merges, leaves, n) for n in sizes[:-1] if n < leaves]
    labels.append(np.arange(leaves))
    counts = tuple(int(level.max()) + 1 for level in labels)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    paths = np.stack([level + start for level, start in zip(labels, starts, strict=True)], axis=1)
    return ClusterTree(centroids, paths.astype(np.int32), counts, unit)


def unit_sketches(sketches_NS: npt.NDArray[np.floating]) -> F32:
    """Sketches at unit length, float32 (N, S); one of zeros stays as it is."""
    x_NS = _quantise(sketches_NS)  # whole numbers, whose sums of squares are exact
    length_N1 = np.sqrt((x_NS**2).sum(1, keepdims=True))
    unit_NS: F32 = (x_NS / np.maximum(length_N1, 1)).astype(np.float32)
    return unit_NS


def _quantise(x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.rint(x.astype(np.float64) * _QUANTUM)
