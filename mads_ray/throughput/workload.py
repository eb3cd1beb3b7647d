"""What is run: rows of a real corpus, or rows of random tokens with realistic lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mads_ray.capture.prompts import PromptRenderer, TokenisedExample
from mads_ray.corpus.forms.schemas import read_row
from mads_ray.corpus.reading.discovery import discover
from mads_ray.corpus.reading.reader import read_rows
from mads_ray.errors import CorpusError, RowError


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
