"""What is run: rows of a real corpus, or rows of random tokens with realistic lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from mads_ray.capture.prompts.examples import PromptRenderer, TokenisedExample
from mads_ray.corpus.forms.schemas import read_row
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.errors import CorpusError, ModelError, RowError


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal lengths in tokens."""

    mean: float
    spread: float  # of the logarithm
    longest: int


# instructions: labelled_mix and Dolly with SmolLM2's tokenizer have means of 186 and 222 tokens and
# spreads of 0.70 and 0.79. conversations: long multi-turn chats, cut at 4,096.
MIXES = {
    "instructions": Lengths(200, 0.7, 2048),
    "conversations": Lengths(1500, 0.8, 4096),
}


def generated(
    mix: str, rows: int, vocabulary: int, max_tokens: int, seed: int = 0
) -> list[TokenisedExample]:
    """Rows of random tokens in random order of length."""
    lengths = MIXES[mix]
    rng = np.random.default_rng(seed)
    centre = math.log(lengths.mean) - lengths.spread**2 / 2
    drawn_N = np.exp(rng.normal(centre, lengths.spread, rows)).astype(int)
    examples = []
    for n in np.clip(drawn_N, 16, min(lengths.longest, max_tokens)):
        ids_T = rng.integers(0, vocabulary, n).astype(np.int32)
        own_T = np.arange(n) >= 8  # as after a chat template's header
        examples.append(TokenisedExample(ids_T, own_T, 0))
    return examples


def from_corpus(
    inputs: Sequence[str], rows: int, renderer: PromptRenderer
) -> list[TokenisedExample]:
    """The first usable rows of a corpus, in its order. Raises CorpusError where there is none."""
    examples: list[TokenisedExample] = []
    for file in discover(list(inputs)).files:
        for row in read_rows(file):
            if len(examples) == rows:
                return examples
            if row.error is not None:
                continue
            try:
                examples.append(renderer(read_row(row.value).conversation))
            except RowError:
                continue
    if not examples:
        raise CorpusError(f"no usable row in {', '.join(inputs)}")
    return examples


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
