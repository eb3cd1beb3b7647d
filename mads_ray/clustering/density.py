"""How dense the pool is around each row, and the weights that take the density out.

A row weighs (alike + prior) ^ -balance, `alike` the landmarks that are like it and the prior a
quarter of a percent of the landmarks: kinds of rows that fill less of the pool than that are not
told apart by their size. Within bins of lengths the weights are then scaled so that a bin weighs as
many rows as it has, because long rows, which are like few others, would fill the core set. All that
reads the pool's proportions reads these weights: k-means, the joins of the cluster tree, and the
pool's counts of neurons.

Related: Sachdeva et al. 2024 (arXiv 2402.09668) draw rows by the inverse of a density; Vo et al.
2024 (arXiv 2405.15613) even out clusters by sampling from a hierarchy of them.

N rows, M landmarks, B bins of lengths, C counts from 0 to M.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Context, Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64, I32, I64
from mads_ray.clustering.survey import Survey
from mads_ray.storage import write_npz
from mads_ray.stored.arrays import Shape, read_npz
from mads_ray.stored.damaged import damaged

# Of the pool, and at least so many landmarks: with one or two, a row that none is like would weigh
# many times a row that one is like, and chance would decide (docs/evidence.md).
PRIOR, LEAST_PRIOR = 0.0025, 4.0
WEIGHT_UNIT = 2**12  # the mean weight of a row
_COUNT_UNIT = 2**20  # the weight by count of a row that no landmark is like
_BINS = 62
# The first number of tokens of every bin but the first: powers of the root of 2, rounded up.
_EDGES: I64 = np.array([math.isqrt(2**b - 1) + 1 for b in range(1, _BINS)], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class BinSums:
    """Rows in every bin of lengths, and the sum of their weights by count: int64 (B,) each.

    They add up over shards, in any order.
    """

    rows_B: I64
    weight_B: I64

    @classmethod
    def of(cls, alike_N: I32, tokens_N: I32, weights_C: I64) -> BinSums:
        """Sums over some rows."""
        bin_N, weight_B = length_bins(tokens_N), np.zeros(_BINS, np.int64)
        np.add.at(weight_B, bin_N, weights_C[alike_N])
        return cls(np.bincount(bin_N, minlength=_BINS), weight_B)

    @classmethod
    def none(cls) -> BinSums:
        """Sums over no rows."""
        return cls(np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64))

    def __add__(self, other: BinSums) -> BinSums:
        return BinSums(self.rows_B + other.rows_B, self.weight_B + other.weight_B)

    def weights(self, alike_N: I32, tokens_N: npt.NDArray[np.integer], weights_C: I64) -> I64:
        """Weights of rows, int64 (N,) in units of 2^-12: every bin weighs as many rows as it has.

        These are the sums of all rows of the pool.
        """
        scale_B: F64 = self.rows_B * float(WEIGHT_UNIT) / np.maximum(self.weight_B, 1)
        weight_N = weights_C[alike_N] * scale_B[length_bins(tokens_N)]
        return np.maximum(np.rint(weight_N), 1).astype(np.int64)


def length_bins(tokens_N: npt.NDArray[np.integer]) -> I64:
    """The bin of each row by its length: half an octave of tokens."""
    return np.searchsorted(_EDGES, tokens_N, "right").astype(np.int64)


def weights_by_count(landmarks: int, balance: float) -> I64:
    """Weight of a row by how many landmarks are like it, int64 (C,): before lengths count.

    In units of 2^-20 of the weight of a row that none is like.
    """
    prior = max(PRIOR * landmarks, LEAST_PRIOR)
    # Powers of floats differ between machines in their last bit, those of decimals do not.
    context, exponent = Context(prec=24), Decimal(-balance)
    rises = (Decimal(1 + count / prior) for count in range(landmarks + 1))
    powers = (context.power(rise, exponent) for rise in rises)
    return np.array([int((p * _COUNT_UNIT).to_integral_value()) for p in powers], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class PoolDensity:
    """How many landmarks are like each row of a pool, in a file for each shard, and the weights.

    `folder` holds the files. `rows` are those of the pool, with those of a base core set, and
    `landmarks` how many of them are landmarks. `sums` and `weights_C` make the weights. `digest` is
    of all that the weights depend on.
    """

    folder: Path
    rows: int
    landmarks: int
    weights_C: I64
    sums: BinSums
    digest: str

    def save(self) -> None:
        """Write what is not in the files of the shards."""
        write_npz(
            self.folder / "pool.npz",
            rows=np.array(self.rows),
            landmarks=np.array(self.landmarks),
            weights_C=self.weights_C,
            rows_B=self.sums.rows_B,
            weight_B=self.sums.weight_B,
            digest=np.array(self.digest),
        )

    @classmethod
    def load(cls, folder: Path) -> PoolDensity:
        """Read what `save` wrote. Raises DamagedFileError for a file that is torn or foreign."""
        wanted: dict[str, tuple[str, Shape]] = {
            "rows": ("i", ()),
            "landmarks": ("i", ()),
            "weights_C": ("i", (None,)),
            "rows_B": ("i", (None,)),
            "weight_B": ("i", (None,)),
            "digest": ("U", ()),
        }
        z = read_npz(folder / "pool.npz", "it is made again", wanted)
        sums = BinSums(z["rows_B"], z["weight_B"])
        rows, landmarks = int(z["rows"]), int(z["landmarks"])
        return cls(folder, rows, landmarks, z["weights_C"], sums, str(z["digest"]))

    @property
    def flat(self) -> bool:
        """Whether all rows weigh the same: balance 0."""
        return int(self.weights_C.min()) == int(self.weights_C.max())

    def alike(self, shard: int) -> I32:
        """How many landmarks are like each row of a shard, int32 (N,)."""
        remedy = f"remove {self.folder} and run the same command again: rows are counted anew"
        path = _file(self.folder, shard)
        alike_N: I32 = read_npz(path, remedy, {"alike_N": ("i", (None,))})["alike_N"]
        if alike_N.size and not 0 <= alike_N.min() <= alike_N.max() <= self.landmarks:
            raise damaged(path, "counts more landmarks than there are", remedy)
        return alike_N

    def like(self, shard: int) -> I64:
        """About how many rows of the pool are like each row of a shard, itself included: (N,).

        Exact where all rows are landmarks.
        """
        return 1 + (self.alike(shard).astype(np.int64) * self.rows) // max(1, self.landmarks)

    def weights(self, shard: int, tokens_N: npt.NDArray[np.integer]) -> I64:
        """Weight of each row of a shard, int64 (N,) in units of 2^-12; all 1 where balance is 0."""
        if self.flat:
            return np.ones(len(tokens_N), np.int64)
        return self.sums.weights(self.alike(shard), tokens_N, self.weights_C)


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """How dense a pool is around each row, and what its landmarks tell of it."""

    pool: PoolDensity
    survey: Survey


def keep_alike(folder: Path, shard: int, alike_N: I32) -> None:
    """Write how many landmarks are like each row of a shard, for `PoolDensity.alike`."""
    write_npz(_file(folder, shard), alike_N=alike_N)  # with a checksum, which .npy has not


def _file(folder: Path, shard: int) -> Path:
    return folder / f"part-{shard:05d}.npz"
