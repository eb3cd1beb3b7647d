"""Reduce pooled activations to the activation state and the sketch of an example.

State: standardise every neuron by the calibration, then keep the k largest of each layer. Raw top-k
would give the same always active neurons everywhere, and a threshold would depend on length.

One packed row leaves the device for each example, so that a batch needs one copy. The last column
says whether all pooled activations were finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mads_ray.capture.calibration import Calibration

Packed = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Pooled:
    """Pooled activations of a batch, on the model's device.

    `acts_BLF` float32: max or mean of |activation| over own tokens. `hidden_BH` float32: mean of
    the last hidden state over own tokens.
    """

    acts_BLF: torch.Tensor
    hidden_BH: torch.Tensor

    def finite_B1(self) -> torch.Tensor:
        """Whether all activations of a row are finite. None is negative: the largest shows it."""
        return torch.isfinite(self.acts_BLF.flatten(1).amax(1, keepdim=True))


def pack_pooled(pooled: Pooled) -> torch.Tensor:
    """Pack all of it, for calibration: float32 (B, L*F + H + 1)."""
    columns = [pooled.acts_BLF.flatten(1), pooled.hidden_BH, pooled.finite_B1().float()]
    return torch.cat(columns, 1)


def unpack_pooled(rows_NW: Packed, layers: int, width: int) -> tuple[Packed, Packed]:
    """(acts_NLF, hidden_NH) of rows that `pack_pooled` packed."""
    acts_NLF = rows_NW[:, : layers * width].reshape(-1, layers, width)
    return acts_NLF, rows_NW[:, layers * width : -1]


class StateReducer:
    """Holds a calibration on the device and reduces pooled activations there.

    A packed state has 16 bits a column: `neurons`, `sketch`, and on demand `hidden` and
    `raw_neurons`, each as in the stored file.
    """

    def __init__(
        self,
        calibration: Calibration,
        device: torch.device,
        hidden_dim: int = 0,
        store_raw: bool = False,
    ) -> None:
        self.device = device
        self.k = calibration.neurons_per_layer
        self.sketch_dim = calibration.projection_DS.shape[1]
        self.hidden_dim, self.store_raw = hidden_dim, store_raw  # 0: not stored
        self._mean_LF = torch.from_numpy(calibration.mean_LF).to(device)
        self._scale_LF = torch.from_numpy(calibration.scale_LF()).to(device)
        layers, width = calibration.mean_LF.shape
        self.slots = layers * self.k
        self._offset_L1 = torch.arange(layers, device=device)[:, None] * width
        self._projection_DS = torch.from_numpy(calibration.projection_DS).to(device)
        self._centre_S = torch.from_numpy(calibration.centre_S).to(device)

    def pack(self, pooled: Pooled) -> torch.Tensor:
        """Reduce a batch to its packed states: int16 (B, columns), on the device."""
        active_BLk = top_k(pooled.acts_BLF, self._mean_LF, self._scale_LF, self.k)
        flat = (active_BLk + self._offset_L1).flatten(1)
        sketch_BS = (
            torch.nn.functional.embedding_bag(flat, self._projection_DS, mode="sum")
            - self._centre_S
        )
        # With unit length, rare content would count as much as typical content. With its own
        # length, all rare content would be one cluster. The root is between (docs/evidence.md).
        sketch_BS = sketch_BS / self.slots**0.5
        length_B1 = torch.linalg.vector_norm(sketch_BS, dim=1, keepdim=True)
        sketch_BS = sketch_BS / length_B1.clamp_min(1e-6).sqrt()
        columns = [_indices(active_BLk), sketch_BS.half().view(torch.int16)]
        if self.hidden_dim:
            columns.append(pooled.hidden_BH.half().view(torch.int16))
        if self.store_raw:
            columns.append(_indices(_raw_top_k(pooled.acts_BLF, self.k)))
        return torch.cat([*columns, pooled.finite_B1().short()], 1)

    def unpack(self, rows_NW: Packed) -> dict[str, Packed]:
        """The columns of packed states.

        `neurons`: uint16 (N, L*k), sorted within each layer. `sketch`: float16 (N, S); its length
        is the square root of the projection's, at most 1. `hidden`: float16 (N, H). `raw_neurons`:
        uint16 (N, L*k), as `neurons`, but the k largest of each layer, not standardised. Of equal
        values, which are common in bfloat16, the lower index is kept.
        """
        sketch = self.slots + self.sketch_dim
        hidden = sketch + self.hidden_dim
        found = {
            "neurons": rows_NW[:, : self.slots].view(np.uint16),
            "sketch": rows_NW[:, self.slots : sketch].view(np.float16),
        }
        if self.hidden_dim:
            found["hidden"] = rows_NW[:, sketch:hidden].view(np.float16)
        if self.store_raw:
            found["raw_neurons"] = rows_NW[:, hidden:-1].view(np.uint16)
        return found


def _indices(active_BLk: torch.Tensor) -> torch.Tensor:
    """Indices as 16 bits. The host reads them as unsigned."""
    flat = active_BLk.flatten(1)
    return torch.where(flat < 2**15, flat, flat - 2**16).to(torch.int16)


def _raw_top_k(acts_BLF: torch.Tensor, k: int) -> torch.Tensor:
    layers = [  # one layer at a time: sorting takes several times the memory
        acts_BF.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        for acts_BF in acts_BLF.unbind(1)
    ]
    return torch.stack(layers, 1).sort(-1).values


def top_k(
    acts_BLF: torch.Tensor, mean_LF: torch.Tensor, scale_LF: torch.Tensor, k: int
) -> torch.Tensor:
    """Indices (B, L, k), ascending, of the k most unusually active neurons of every layer."""
    z_BLF = ((acts_BLF - mean_LF) * scale_LF).masked_fill_(scale_LF == 0, float("-inf"))
    return z_BLF.topk(k, dim=-1, sorted=False).indices.sort(-1).values
