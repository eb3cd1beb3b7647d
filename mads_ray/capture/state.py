"""From pooled activations to the activation state and the sketch of an example.

State: standardise every neuron by its calibration, then keep exactly k per layer. Raw top-k would
name the same always-on neurons everywhere, a threshold would follow length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from mads_ray.capture.calibration import Calibration


class StateReducer:
    """Holds a calibration on the device and reduces pooled activations there."""

    def __init__(self, calibration: Calibration, device: torch.device) -> None:
        self.k = calibration.neurons_per_layer
        self.sketch_dim = calibration.projection_DS.shape[1]
        self._mean_LF = torch.from_numpy(calibration.mean_LF).to(device)
        self._scale_LF = torch.from_numpy(calibration.scale_LF()).to(device)
        layers, width = calibration.mean_LF.shape
        self._offset_L1 = torch.arange(layers, device=device)[:, None] * width
        self._projection_DS = torch.from_numpy(calibration.projection_DS).to(device)
        self._centre_S = torch.from_numpy(calibration.centre_S).to(device)

    def reduce(
        self, acts_BLF: torch.Tensor
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float16]]:
        """Return (`neurons` uint16 (B, L*k), sorted within each layer; `sketch` float16 (B, S),
        unit length). Only these leave the device."""
        active_BLk = top_k(acts_BLF, self._mean_LF, self._scale_LF, self.k)
        flat = (active_BLk + self._offset_L1).flatten(1)
        sketch_BS = (
            torch.nn.functional.embedding_bag(flat, self._projection_DS, mode="sum")
            - self._centre_S
        )
        sketch_BS = torch.nn.functional.normalize(sketch_BS, dim=1, eps=1e-6)
        return _packed(active_BLk), sketch_BS.cpu().numpy().astype(np.float16)

    def reduce_raw(self, acts_BLF: torch.Tensor) -> npt.NDArray[np.uint16]:
        """`raw_neurons` uint16 (B, L*k), laid out as `neurons`: the k largest of every layer.

        The literature's reading of an active neuron, for a baseline. Of equal ones, which bfloat16
        makes common, the lower index wins.
        """
        layers = [  # one at a time: sorting takes several times the memory
            acts_BF.sort(dim=-1, descending=True, stable=True).indices[:, : self.k]
            for acts_BF in acts_BLF.unbind(1)
        ]
        return _packed(torch.stack(layers, 1).sort(-1).values)


def _packed(active_BLk: torch.Tensor) -> npt.NDArray[np.uint16]:
    return active_BLk.flatten(1).cpu().numpy().astype(np.uint16)


def top_k(
    acts_BLF: torch.Tensor, mean_LF: torch.Tensor, scale_LF: torch.Tensor, k: int
) -> torch.Tensor:
    """Indices (B, L, k), ascending, of the k most unusually active neurons of every layer."""
    z_BLF = ((acts_BLF - mean_LF) * scale_LF).masked_fill_(scale_LF == 0, float("-inf"))
    return z_BLF.topk(k, dim=-1, sorted=False).indices.sort(-1).values
