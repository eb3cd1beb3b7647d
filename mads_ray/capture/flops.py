"""FLOPs of a forward pass, and the seconds that a GPU would take for them at its peak.

A worker adds up these seconds. Divided by the seconds that the devices took, they are the model
FLOPs utilisation (MFU). `mads-ray bench throughput` uses the same formula.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class Peak:
    """A model on a GPU whose peak is known."""

    flops: Flops
    flops_per_s: float

    @classmethod
    def of(cls, model: Any, dtype: str) -> Peak | None:
        """The peak of this model. None on a CPU, and for GPUs and precisions not in the table."""
        device = next(model.parameters()).device
        if device.type != "cuda":
            return None
        peak = peak_tflops(torch.cuda.get_device_name(device), dtype)
        return cls(Flops.of(model), peak * 1e12) if peak else None

    def seconds(self, tokens: int, lengths: list[int]) -> float:
        """Seconds at the peak for `tokens` tokens, in rows of these lengths.

        `lengths` may be those of other rows, too: they give the FLOPs of a token.
        """
        total = sum(lengths)
        if not total:
            return 0.0
        return self.flops.of_rows(lengths) / self.flops_per_s * tokens / total


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of a forward pass without the LM head."""

    per_token: float  # 2 for each weight of a linear layer
    per_token_pair: float  # attention scores and sums, for a token and one that it sees

    @classmethod
    def of(cls, model: Any) -> Flops:
        """Count them from the model's weights and configuration."""
        decoder = getattr(model, "language_model", model)  # without other towers
        weights = sum(
            m.weight.numel() for m in decoder.modules() if isinstance(m, torch.nn.Linear | Conv1D)
        )
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(2.0 * weights, 4.0 * config.num_hidden_layers * heads * head)

    def of_rows(self, lengths: list[int]) -> float:
        """FLOPs of rows of these lengths. A token sees itself and those before it (causal)."""
        pairs = sum(n * (n + 1) / 2 for n in lengths)
        return self.per_token * sum(lengths) + self.per_token_pair * pairs


# Dense 16-bit TFLOP/s without sparsity, from data sheets. The first name that fits counts.
_PEAK_TFLOPS = {
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
}


def peak_tflops(name: str, dtype: str) -> float | None:
    """The peak on the data sheet. None for other GPUs, for slices of a GPU, and for float32."""
    if dtype == "float32" or "MIG" in name:
        return None
    fitting = (p for key, p in _PEAK_TFLOPS.items() if re.search(rf"\b{key}\b", name))
    return next(fitting, None)
