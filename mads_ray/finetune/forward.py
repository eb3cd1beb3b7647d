"""Minus log-probabilities of given next tokens, in nats. Tuning, losses and choices use it.

With right padding and causal attention no attention mask is needed: a real token never sees
padding. Logits are computed only where a token is scored, because logits of all positions would
take most of the memory (Gemma 3 has a vocabulary of 262,144).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from mads_ray.capture.engines.batching import token_batches

_POSITIONS = 2048  # scored at once where no gradient is needed


@dataclass(frozen=True, slots=True)
class Query:
    """Tokens to read, and tokens to score: `next_N[i]` after position `at_N[i]`.

    `ids_T`: int32. `at_N`: int64 positions in it, in any order, repeated where several tokens are
    scored for one place. `next_N`: int64.
    """

    ids_T: npt.NDArray[np.int32]
    at_N: npt.NDArray[np.int64]
    next_N: npt.NDArray[np.int64]


def query_of(ids_T: npt.NDArray[np.int32], target_T: npt.NDArray[np.bool_]) -> Query:
    """A query that scores these tokens of a sequence. The first token cannot be scored."""
    at_N = np.flatnonzero(target_T[1:])
    end = int(at_N[-1]) + 1 if len(at_N) else 1
    return Query(ids_T[:end], at_N, ids_T[at_N + 1].astype(np.int64))


def nats_of(model: Any, queries: Sequence[Query], bf16: bool) -> torch.Tensor:
    """Minus log-probabilities of all scored tokens, query after query: float32 (N,), on the device.

    With gradients the head runs in the precision of the rest. Without them it runs in float32,
    because bfloat16 rounds logits of 20 to about 0.1.
    """
    ids_BT, at_N, next_N = (x.to(model.device, non_blocking=True) for x in _collate(queries))
    head = model.get_output_embeddings()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        hidden_BTH = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        hidden_NH = hidden_BTH.flatten(0, 1)[at_N]
        if torch.is_grad_enabled():
            return functional.cross_entropy(head(hidden_NH).float(), next_N, reduction="none")
    parts = [slice(i, i + _POSITIONS) for i in range(0, len(next_N), _POSITIONS)]
    return torch.cat(
        [
            functional.cross_entropy(head(hidden_NH[p].float()), next_N[p], reduction="none")
            for p in parts
        ]
    )


def nats_by_query(
    model: Any, queries: Sequence[Query], budget: int, bf16: bool
) -> list[npt.NDArray[np.float64]]:
    """The nats (N,) of each query, computed in batches of at most `budget` padded tokens."""
    found: list[Any] = [None] * len(queries)
    waiting: list[tuple[list[int], torch.Tensor]] = []
    model.eval()
    with torch.inference_mode():
        for batch in token_batches([len(q.ids_T) for q in queries], budget):
            waiting.append((batch, nats_of(model, [queries[i] for i in batch], bf16)))
    for batch, nats_N in waiting:  # at the end, because reading waits for the device
        ends = np.cumsum([len(queries[i].at_N) for i in batch])
        for i, part in zip(batch, np.split(nats_N.cpu().numpy(), ends[:-1]), strict=True):
            found[i] = part.astype(np.float64)
    return found


def _collate(queries: Sequence[Query]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Padded ids (B, T), flat positions (N,) and tokens (N,), all int64 on the CPU."""
    longest = max(len(q.ids_T) for q in queries)
    ids_BT = np.zeros((len(queries), longest), np.int64)
    for row, query in enumerate(queries):
        ids_BT[row, : len(query.ids_T)] = query.ids_T
    at_N = np.concatenate([row * longest + q.at_N for row, q in enumerate(queries)])
    next_N = np.concatenate([q.next_N for q in queries])
    return torch.from_numpy(ids_BT), torch.from_numpy(at_N), torch.from_numpy(next_N)
