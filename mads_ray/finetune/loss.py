"""Held-out loss: nats per response token, over all rows and by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mads_ray.finetune.data import Example
from mads_ray.finetune.forward import nats_by_query


@dataclass(frozen=True, slots=True)
class LossSum:
    """The sum of `nats` over the response tokens of some rows."""

    nats: float
    tokens: int
    rows: int

    @property
    def mean(self) -> float:
        """Nats per response token."""
        return self.nats / self.tokens


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """Sums by label. A mean can give tokens, or tasks, equal weight."""

    groups: Mapping[str, LossSum]

    @property
    def per_token(self) -> float:
        """Nats per response token. Long responses count more."""
        return sum(g.nats for g in self.groups.values()) / sum(
            g.tokens for g in self.groups.values()
        )

    @property
    def mean_of_tasks(self) -> float:
        """The mean over labels of the nats per response token."""
        return sum(g.mean for g in self.groups.values()) / len(self.groups)


def held_out_loss(
    model: Any, examples: Sequence[Example], budget: int = 16_384, bf16: bool = False
) -> HeldOutLoss:
    """The loss of one or more examples, in batches of at most `budget` padded tokens."""
    assert examples
    groups: dict[str, LossSum] = {}
    queries = [e.query() for e in examples]
    for example, nats_N in zip(examples, nats_by_query(model, queries, budget, bf16), strict=True):
        so_far = groups.get(example.label, LossSum(0.0, 0, 0))
        groups[example.label] = LossSum(
            so_far.nats + float(nats_N.sum()), so_far.tokens + len(nats_N), so_far.rows + 1
        )
    return HeldOutLoss(dict(sorted(groups.items())))
