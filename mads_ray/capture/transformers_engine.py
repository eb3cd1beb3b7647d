"""The transformers engine: token ids in, pooled activations out.

Right padding and causal attention make an attention mask unnecessary: real tokens never see
padding, the fused causal kernel is used, and padded positions are left out of the pooling.
Shapes: B rows, T tokens, L layers, F neurons a layer, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mads_ray.capture.architectures import find_down_projections
from mads_ray.capture.prompts import TokenisedExample
from mads_ray.errors import ModelError


@dataclass(frozen=True, slots=True)
class Pooled:
    """On the model's device: `peak_BLF` float32, max over own tokens of |activation|; `hidden_BH`
    float32, mean over own tokens of the last hidden state."""

    peak_BLF: torch.Tensor
    hidden_BH: torch.Tensor


class TransformersEngine:
    """Runs a base model and pools the inputs of its down projections inside hooks.

    No layer's activations outlive its hook, so memory beside the forward pass is B x L x F.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.device = next(model.parameters()).device
        modules = find_down_projections(model)
        self.layers = len(modules)
        self.width = _input_width(modules[0])
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        if self.width > 2**16:
            raise ModelError(f"layers of {self.width} neurons do not fit 16-bit neuron indices")
        self._outside_BT1: torch.Tensor | None = None
        self._peak_BLF: torch.Tensor | None = None
        self._fired = 0
        for layer, module in enumerate(modules):
            module.register_forward_pre_hook(self._pooling_hook(layer))

    def pool(self, examples: Sequence[TokenisedExample]) -> Pooled:
        """One forward pass over right-padded `examples`."""
        lengths = [len(e.ids_T) for e in examples]
        ids_BT = torch.zeros((len(examples), max(lengths)), dtype=torch.long)
        own_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
        for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
            ids_BT[row, :length] = torch.from_numpy(example.ids_T)
            own_BT[row, :length] = torch.from_numpy(example.own_T)
        own_BT = own_BT.to(self.device)
        self._outside_BT1 = ~own_BT[..., None]
        self._peak_BLF = torch.empty(
            (len(examples), self.layers, self.width), dtype=torch.float32, device=self.device
        )
        self._fired = 0
        try:
            with torch.inference_mode():
                hidden_BTH = self._model(
                    input_ids=ids_BT.to(self.device), use_cache=False
                ).last_hidden_state
                weights_BT1 = own_BT[..., None].to(torch.float32)
                hidden_BH = (hidden_BTH.float() * weights_BT1).sum(1) / weights_BT1.sum(1)
            assert self._fired == self.layers, f"{self._fired} of {self.layers} hooks fired"
            return Pooled(self._peak_BLF, hidden_BH)
        finally:
            self._outside_BT1 = self._peak_BLF = None

    def _pooling_hook(self, layer: int) -> Any:
        def hook(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            if self._outside_BT1 is None or self._peak_BLF is None:
                return
            rows, tokens, _ = self._outside_BT1.shape
            acts_BTF = args[0].reshape(rows, tokens, self.width)  # OPT flattens its tokens
            self._peak_BLF[:, layer] = (
                acts_BTF.abs().masked_fill_(self._outside_BT1, 0).amax(1).float()
            )
            self._fired += 1

        return hook


def _input_width(module: Any) -> int:
    if hasattr(module, "in_features"):
        return int(module.in_features)
    return int(module.weight.shape[0])  # GPT-2's Conv1D stores (in, out)
