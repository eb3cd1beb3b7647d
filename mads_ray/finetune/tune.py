"""Full fine-tuning in a plain loop: AdamW, warmup, cosine, clipping, micro-batches by tokens.

A step takes a fixed number of examples. Its loss is the mean over all their response tokens, for
any cut into micro-batches. Weights stay float32. There is no LoRA: at these sizes (135M to 270M) a
full fine-tune fits any GPU and is the stronger test of the data.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mads_ray.capture.engines.batching import token_batches
from mads_ray.errors import ConfigError
from mads_ray.finetune.data import Example
from mads_ray.finetune.forward import Query, nats_of
from mads_ray.hashing import epoch_order, seeded_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to tune. Either `steps` or `epochs` is set. Micro-batches count padded tokens."""

    steps: int | None = None
    epochs: float | None = None
    learning_rate: float = 5e-5
    examples_per_step: int = 16
    batch_tokens: int = 8192
    warmup: float = 0.03
    floor: float = 0.1
    clip: float = 1.0
    bf16: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError("a plan has either steps or epochs")

    def draws(self, examples: int) -> int:
        """How many examples all steps read together."""
        if self.steps is not None:
            return self.steps * self.examples_per_step
        assert self.epochs is not None
        return max(1, round(self.epochs * examples))

    def n_steps(self, examples: int) -> int:
        """The number of steps. With `epochs` the last step may be smaller."""
        return -(-self.draws(examples) // self.examples_per_step)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step from 0 on: a linear rise, then a cosine down to the floor."""
        rise = max(1, round(self.warmup * steps))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        done = (step + 1 - rise) / (steps - rise)
        share = self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * share


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a fine-tune did. `losses` (steps,): nats per response token, before each step."""

    steps: int
    examples: int
    draws: int
    tokens: int
    response_tokens: int
    seconds: float
    losses: tuple[float, ...]


def tune(model: Any, examples: Sequence[Example], plan: Plan, seed: int) -> Tuned:
    """Tune `model` in place. The same seed gives the same weights (bit for bit on a CPU).

    The result does not depend on the order of `examples`, unless uids are equal. Raises ConfigError
    when there are no examples.
    """
    if not examples:
        raise ConfigError("there is no example to tune on")
    torch.manual_seed(seed)  # for models with dropout
    steps = plan.n_steps(len(examples))
    queries = [e.query() for e in examples]
    order = _order([e.uid for e in examples], seed, plan.draws(len(examples)))
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=plan.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=model.device.type == "cuda",
    )
    started = time.perf_counter()
    losses, tokens, responses = [], 0, 0
    model.train()
    for step in range(steps):
        chosen = [queries[i] for _, i in zip(range(plan.examples_per_step), order, strict=False)]
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step, steps)
        losses.append(accumulate(model, chosen, plan.batch_tokens, plan.bf16))
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(q.ids_T) for q in chosen)
        responses += sum(len(q.at_N) for q in chosen)
        if (step + 1) % 50 == 0:
            log.info("step %d of %d, loss %.3f", step + 1, steps, float(losses[-1]))
    read = tuple(round(float(x), 5) for x in losses)  # at the end: a read waits for the device
    model.eval()
    seconds = time.perf_counter() - started
    draws = plan.draws(len(examples))
    return Tuned(steps, len(examples), draws, tokens, responses, seconds, read)


def accumulate(model: Any, queries: Sequence[Query], budget: int, bf16: bool) -> torch.Tensor:
    """Add the gradient of the mean loss over all scored tokens; return that loss (float32, ()).

    Micro-batches have at most `budget` padded tokens. Their cut does not change the sum.
    """
    scored = sum(len(q.at_N) for q in queries)
    total = torch.zeros((), device=model.device)
    for batch in token_batches([len(q.ids_T) for q in queries], budget):
        loss = nats_of(model, [queries[i] for i in batch], bf16).sum() / scored
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _order(uids: Sequence[str], seed: int, draws: int) -> Iterator[int]:
    """Yield `draws` indices, epoch after epoch, in orders that depend on uids and seed alone."""
    epoch = 0
    while draws > 0:
        hashes = seeded_hash(uids, seed, epoch_order(epoch))
        order = np.argsort(hashes, kind="stable")[:draws]
        yield from order.tolist()
        draws -= len(order)
        epoch += 1
