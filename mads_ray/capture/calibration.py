"""Calibration: mean and std of every neuron, and the projection that makes a sketch of a state.

It is fitted with the given model on a small sample of the corpus, chosen by hashes of uids. States
compare only under one calibration. Shapes: N sample rows, L layers, F neurons a layer, D = L*F, S
sketch length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F32
from mads_ray.errors import CorpusError
from mads_ray.storage import write_npz
from mads_ray.stored.arrays import Shape, read_npz

FORMAT = 2  # of the states: raise it when the same calibration gives other states


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """`mean_LF`, `std_LF` of the pooled activations; `projection_DS`, `centre_S` of the sketch."""

    mean_LF: F32
    std_LF: F32
    projection_DS: F32
    centre_S: F32
    neurons_per_layer: int
    rows: int

    def scale_LF(self) -> F32:
        """What standardised activations are multiplied by: about 1 / std, float32 (L, F).

        A thousandth of the layer's mean std is added to each std, because a neuron that is nearly
        constant would get huge values. A neuron that was constant in calibration gets 0.
        """
        return _scale(self.std_LF)

    def digest(self) -> str:
        """A hash of the whole calibration."""
        about = f"{FORMAT}:{self.neurons_per_layer}:{self.rows}:{self.mean_LF.shape}"
        h = hashlib.sha256(about.encode())
        for array in (self.mean_LF, self.std_LF, self.projection_DS, self.centre_S):
            h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()[:32]

    def save(self, path: Path) -> None:
        """Write an .npz file without pickled objects, whole or not at all."""
        write_npz(
            path,
            mean_LF=self.mean_LF,
            std_LF=self.std_LF,
            projection_DS=self.projection_DS,
            centre_S=self.centre_S,
            scalars=np.array([self.neurons_per_layer, self.rows], np.int64),
        )

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote. Raises DamagedFileError for a file that is torn or foreign."""
        remedy = (
            f"remove it and {path.with_name('manifest.json')}, and run the command that captured "
            "again: the calibration is made again, and shards of the same calibration stay"
        )
        wanted: dict[str, tuple[str, Shape]] = {
            "mean_LF": ("f", (None, None)),
            "std_LF": ("f", (None, None)),
            "projection_DS": ("f", (None, None)),
            "centre_S": ("f", (None,)),
            "scalars": ("i", (2,)),
        }
        z = read_npz(path, remedy, wanted)
        k, rows = (int(v) for v in z["scalars"])
        return cls(z["mean_LF"], z["std_LF"], z["projection_DS"], z["centre_S"], k, rows)


def fit_calibration(groups: Sequence[F32], neurons_per_layer: int, sketch_dim: int) -> Calibration:
    """Fit on pooled activations: (memory-mapped) arrays of shape (n, L, F), in their order.

    Makes three passes over the groups. Memory holds one group and the N x k*L state indices.
    The sketch is the truncated SVD of the N x D binary state matrix (by its N x N Gram matrix),
    centred. Raises CorpusError for fewer than two rows.
    """
    rows = sum(len(a) for a in groups)
    if rows < 2:
        raise CorpusError(f"calibration needs at least 2 usable examples, the corpus gave {rows}")
    mean_LF = sum(a.sum(0, dtype=np.float64) for a in groups) / rows
    variance_LF = sum(((a - mean_LF) ** 2).sum(0) for a in groups) / rows
    std_LF = np.sqrt(variance_LF).astype(np.float32)
    mean32_LF = mean_LF.astype(np.float32)
    scale_LF = _scale(std_LF)
    k = min(neurons_per_layer, mean_LF.shape[1])
    z_groups = (np.where(scale_LF > 0, (a - mean32_LF) * scale_LF, -np.inf) for a in groups)
    states = [_top_k_flat(z_NLF, k) for z_NLF in z_groups]
    projection_DS, centre_S = _fit_sketch(np.concatenate(states), mean_LF.size, sketch_dim)
    return Calibration(mean32_LF, std_LF, projection_DS, centre_S, k, rows)


def _scale(std_LF: F32) -> F32:
    floor_L1 = 1e-3 * std_LF.mean(1, keepdims=True)
    alive_LF = std_LF > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(alive_LF, 1 / (std_LF + floor_L1), 0).astype(np.float32)


def _top_k_flat(z_NLF: F32, k: int) -> npt.NDArray[np.int64]:
    n, layers, width = z_NLF.shape
    index = np.argpartition(-z_NLF, k - 1, axis=2)[:, :, :k]
    flat = index + (np.arange(layers) * width)[:, None]
    return np.sort(flat.reshape(n, layers * k), axis=1)


def _fit_sketch(active_NA: npt.NDArray[np.int64], n_neurons: int, dim: int) -> tuple[F32, F32]:
    import scipy.linalg  # only where a calibration is fitted
    import scipy.sparse

    n, active = active_NA.shape
    pointers = np.arange(0, n * active + 1, active)
    ones = np.ones(n * active, np.float64)
    x_ND: Any = scipy.sparse.csr_matrix((ones, active_NA.ravel(), pointers), (n, n_neurons))
    gram_NN = (x_ND @ x_ND.T).toarray()  # sums of integers: exact in any order
    values, vectors = scipy.linalg.eigh(gram_NN)
    keep = np.argsort(-values, kind="stable")[: min(dim, n - 1)]
    keep = keep[values[keep] > 1e-6 * values.max()]
    u_NS = vectors[:, keep]
    u_NS *= np.where(u_NS[np.abs(u_NS).argmax(0), np.arange(u_NS.shape[1])] < 0, -1, 1)
    projection_DS = (x_ND.T @ u_NS / np.sqrt(values[keep])).astype(np.float32)
    centre_S = np.asarray((x_ND @ projection_DS).mean(0), np.float32)
    return projection_DS, centre_S
