"""The contract of engines: tokenised examples in, packed rows and failures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mads_ray.capture.journal import Journal
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import Packed, Pooled
from mads_ray.errors import ModelError, RowError

# Deaths in a batch that make its rows suspects. Two: a machine may be taken away in any batch.
TRIED_ALONE = 2


@dataclass(slots=True)
class RunStats:
    """Work done by a run; padded tokens are what the model computed."""

    tokens: int = 0
    padded_tokens: int = 0
    cut_rows: int = 0
    failures: dict[int, RowError] = field(default_factory=dict)


Reduce = Callable[[Pooled], torch.Tensor]


Sink = Callable[[Sequence[int], Packed], None]


# What an engine does with tokenised rows by number; failures go to the stats. Rows that the journal
# has from earlier processes are counted, but not run and not handed over.
Run = Callable[[Mapping[int, TokenisedExample], RunStats, Sink, Journal], None]


def within(
    vocabulary: int,
    longest: int | None,
    examples: Mapping[int, TokenisedExample],
    stats: RunStats,
) -> dict[int, TokenisedExample]:
    """The examples that the model has embeddings and positions for; the others become failures.

    On a GPU one token outside the vocabulary would end the process, and with it the batch.
    """
    fine = {}
    for row, example in examples.items():
        length, highest = len(example.ids_T), int(example.ids_T.max(initial=0))
        if highest >= vocabulary:
            reason = f"token {highest} is outside the model's vocabulary of {vocabulary}"
        elif longest is not None and length > longest:
            reason = f"{length} tokens are more than the model's {longest}"
        else:
            fine[row] = example
            continue
        stats.failures[row] = RowError("model_error", "", reason)
    return fine


def hand_over(rows: Sequence[int], packed_BW: Packed, stats: RunStats, sink: Sink) -> None:
    """Give packed rows to `sink`; those that are not finite become failures."""
    good = packed_BW[:, -1] != 0
    if good.all():
        sink(rows, packed_BW)
    elif good.any():
        sink([rows[i] for i in np.flatnonzero(good).tolist()], packed_BW[good])
    for i in np.flatnonzero(~good).tolist():
        stats.failures[rows[i]] = RowError(
            "not_finite", "", "the model's activations are not finite for this row"
        )


def refuse_total_failure(stats: RunStats, rows: int) -> None:
    """Raise ModelError when the model failed on every row: that is no matter of single rows."""
    broken = [e for e in stats.failures.values() if e.reason in ("model_error", "cannot_render")]
    if rows > 1 and len(broken) == rows:
        raise ModelError(f"the model fails on every one of {rows} rows: {broken[0].message}")
