"""Models of real shape with random weights: for speed without a download."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel
from transformers.pytorch_utils import Conv1D

from mads_ray.errors import ModelError

# hidden, intermediate, layers, heads, key-value heads, head size, vocabulary
_SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 16, 1000),
    "smollm2-135m": (576, 1536, 30, 9, 3, 64, 49_152),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 64, 128_256),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128, 128_256),
    "llama-3.1-8b": (4096, 14_336, 32, 32, 8, 128, 128_256),
}


def random_model(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama without LM head of that shape, in eval mode. Raises ModelError for unknown shapes."""
    if shape not in _SHAPES:
        raise ModelError(f"--random-weights {shape}: known shapes are {', '.join(_SHAPES)}")
    hidden, inner, layers, heads, kv_heads, head, vocabulary = _SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        dtype=dtype,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):  # no copy on the host: 8B parameters would be slow there
            model = LlamaModel(config)
    finally:
        torch.set_default_dtype(before)
    model.train(False)
    return model


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
