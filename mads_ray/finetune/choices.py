"""Multiple choice by log-likelihood, as lm-evaluation-harness scores it.

The tokens of a continuation are those of encode(context + continuation) after encode(context).
Choices that read the same tokens (letters, yes and no) share one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.errors import ModelError
from mads_ray.finetune.forward import Query, nats_by_query
from mads_ray.finetune.tasks import FORMATS, Metric, Question


@dataclass(frozen=True, slots=True)
class Encoded:
    """Questions as token ids. Choice j of all choices is `spans[j]` of query `query_of[j]`."""

    questions: tuple[Question, ...]
    queries: tuple[Query, ...]
    query_of: tuple[int, ...]
    spans: tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class TaskScore:
    """Means over the `n` questions of a task, all from 0 to 1.

    `acc`: the best choice has the highest summed log-likelihood. `acc_norm`: the same per character
    of the choice. `mass`: the share of the likelihood on correct choices (MC2 of TruthfulQA).
    """

    n: int
    acc: float
    acc_norm: float
    mass: float

    def by(self, metric: Metric) -> float:
        """The score of this metric."""
        return float(getattr(self, metric))


def encode(tokenizer: Any, questions: Sequence[Question], max_tokens: int) -> Encoded:
    """Tokenise all choices. Contexts longer than `max_tokens` lose their start.

    The only special tokens are those that the tokenizer adds itself (Gemma's BOS). Raises
    ModelError for a context without tokens.
    """
    pairs = [p for q in questions for p in zip(q.contexts, q.continuations, strict=True)]
    wholes = tokenizer([a + b for a, b in pairs])["input_ids"]
    contexts = tokenizer([a for a, _ in pairs])["input_ids"]
    read: dict[tuple[int, ...], int] = {}
    scored: list[tuple[list[int], list[int]]] = []
    query_of, spans = [], []
    for whole, context in zip(wholes, contexts, strict=True):
        n = len(whole) - len(context)
        if n < 1 or not context:
            raise ModelError("this tokenizer leaves a context or a continuation without tokens")
        ids = tuple(whole[-(max_tokens + 1) : -1])
        i = read.setdefault(ids, len(read))
        if i == len(scored):
            scored.append(([], []))
        at, following = scored[i]
        query_of.append(i)
        n = min(n, len(ids))
        spans.append(slice(len(at), len(at) + n))
        at += range(len(ids) - n, len(ids))
        following += whole[-n:]
    queries = tuple(
        Query(np.array(ids, np.int32), np.array(at, np.int64), np.array(following, np.int64))
        for ids, (at, following) in zip(read, scored, strict=True)
    )
    return Encoded(tuple(questions), queries, tuple(query_of), tuple(spans))


def log_likelihoods(
    model: Any, encoded: Encoded, budget: int = 16_384, bf16: bool = False
) -> list[npt.NDArray[np.float64]]:
    """For each question, the summed log-likelihoods of its choices (C,), in nats."""
    nats = nats_by_query(model, encoded.queries, budget, bf16)
    places = zip(encoded.query_of, encoded.spans, strict=True)
    sums = iter([-float(nats[i][span].sum()) for i, span in places])
    return [np.array([next(sums) for _ in q.continuations]) for q in encoded.questions]


def scores(
    questions: Sequence[Question], likelihoods: Sequence[npt.NDArray[np.float64]]
) -> dict[str, TaskScore]:
    """The scores of each task."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for question, ll_C in zip(questions, likelihoods, strict=True):
        rows.setdefault(question.task, []).append(_score(question, ll_C))
    return {
        task: TaskScore(len(found), *map(float, np.mean(found, axis=0)))
        for task, found in sorted(rows.items())
    }


def average(found: dict[str, TaskScore]) -> float:
    """The mean over tasks, each with its own metric."""
    return sum(s.by(FORMATS[t].metric) for t, s in found.items()) / len(found)


def _score(question: Question, ll_C: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    letters_C = np.array([max(1, len(c.removeprefix(" "))) for c in question.continuations])
    rivals = [i for i in range(len(ll_C)) if i == question.best or i not in question.right]
    p_C = np.exp(ll_C - ll_C.max())
    return (
        float(rivals[int(np.argmax(ll_C[rivals]))] == question.best),
        float(rivals[int(np.argmax((ll_C / letters_C)[rivals]))] == question.best),
        float(p_C[list(question.right)].sum() / p_C.sum()),
    )
