"""Models of real shape with random weights: for speed without a download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

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

    per_token: float  # 2 for each weight that is not an embedding
    per_token_pair: float  # attention scores and sums, of a token and one it sees

    @classmethod
    def of(cls, model: Any) -> Flops:
        """Counted on the model's own weights and configuration."""
        embedding = model.get_input_embeddings().weight.numel()
        weights = sum(p.numel() for p in model.parameters()) - embedding
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(2.0 * weights, 4.0 * config.num_hidden_layers * heads * head)

    def of_rows(self, lengths: list[int]) -> float:
        """For rows of so many tokens, causal: a token sees itself and those before it."""
        pairs = sum(n * (n + 1) / 2 for n in lengths)
        return self.per_token * sum(lengths) + self.per_token_pair * pairs


# Dense bf16 without sparsity, from the vendors' data sheets, in TFLOP/s.
_PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
}


def peak_tflops(device: torch.device) -> float | None:
    """What the data sheet promises in bf16; None for devices not listed, and for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAK_TFLOPS.items() if key in name), None)
