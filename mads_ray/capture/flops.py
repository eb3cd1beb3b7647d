"""Model FLOPs utilisation of work that is under way: the time that the GPU would take at its peak.

The formula is that of `mads-ray bench throughput`. A worker counts; who adds up divides by the
seconds that the devices took.
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
        """None on a CPU, and on GPUs and with precisions that no data sheet here tells of."""
        device = next(model.parameters()).device
        if device.type != "cuda":
            return None
        peak = peak_tflops(torch.cuda.get_device_name(device), dtype)
        return cls(Flops.of(model), peak * 1e12) if peak else None

    def seconds(self, tokens: int, lengths: list[int]) -> float:
        """For so many tokens, in rows of these lengths (all of them, or others beside them)."""
        total = sum(lengths)
        if not total:
            return 0.0
        return self.flops.of_rows(lengths) / self.flops_per_s * tokens / total


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of a forward pass without LM head."""

    per_token: float  # 2 for each weight of a linear layer
    per_token_pair: float  # attention scores and sums, of a token and one it sees

    @classmethod
    def of(cls, model: Any) -> Flops:
        """Counted on the model's own weights and configuration."""
        decoder = getattr(model, "language_model", model)  # without a multimodal model's tower
        weights = sum(
            m.weight.numel() for m in decoder.modules() if isinstance(m, torch.nn.Linear | Conv1D)
        )
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(2.0 * weights, 4.0 * config.num_hidden_layers * heads * head)

    def of_rows(self, lengths: list[int]) -> float:
        """For rows of so many tokens, causal: a token sees itself and those before it."""
        pairs = sum(n * (n + 1) / 2 for n in lengths)
        return self.per_token * sum(lengths) + self.per_token_pair * pairs


# Dense 16-bit without sparsity, from the vendor's data sheets, in TFLOP/s. The first that fits.
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
    """What the data sheet promises; None for GPUs not listed, for their slices, and float32."""
    if dtype == "float32" or "MIG" in name:
        return None
    fitting = (p for key, p in _PEAK_TFLOPS.items() if re.search(rf"\b{key}\b", name))
    return next(fitting, None)
