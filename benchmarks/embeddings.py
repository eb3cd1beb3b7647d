"""Sentence embeddings as sentence-transformers makes them, for peers that cluster texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoTokenizer

_MAX_TOKENS = 256  # what all-MiniLM-L6-v2 was trained on
_BATCH = 32


def sentence_embeddings(folder: str, texts: list[str]) -> npt.NDArray[np.float32]:
    """Mean over tokens of the last hidden state, of unit length: float32 (N, S)."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = np.empty((len(texts), model.config.hidden_size), np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), _BATCH):
        some = order[start : start + _BATCH]
        batch = tokenizer(
            [texts[i] for i in some],
            padding=True,
            truncation=True,
            max_length=_MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden_BTH = model(**batch).last_hidden_state
        real_BT1 = batch["attention_mask"][:, :, None]
        mean_BH = (hidden_BTH * real_BT1).sum(1) / real_BT1.sum(1)
        found[some] = torch.nn.functional.normalize(mean_BH, dim=1).numpy()
    return found
