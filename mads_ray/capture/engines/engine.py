"""The contract of engines: tokenised examples in, packed rows and failures out.

Shapes: N rows, L layers, F neurons a layer, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch

from mads_ray.capture.flops import Peak
from mads_ray.capture.journal import Journal
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import Packed, Pooled, StateReducer, pack_pooled
from mads_ray.errors import ModelError, RowError

# A batch in which so many processes died is a suspect. Not one: any process may lose its machine.
TRIED_ALONE = 2

Pooling = Literal["max", "mean"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a caller may ask of an engine. Each engine ignores what is not meant for it.

    `pooling`: how a neuron's |activations| over the own tokens become one number.
    `hook_module`: where the neurons are, as `find_down_projections` takes it.
    `max_tokens`: length of the longest example.
    `token_budget`: tokens that are computed at once; None: the engine decides.
    `memory_share`: the part of a device's memory that this engine may use.
    `compile`: torch.compile (transformers). `tensor_parallel`: devices that hold one model (vllm).
    """

    pooling: Pooling = "max"
    hook_module: str | None = None
    max_tokens: int = 2048
    token_budget: int | None = None
    memory_share: float = 1.0
    compile: bool = False
    tensor_parallel: int = 1


@dataclass(frozen=True, slots=True)
class PooledRows:
    """Rows are pooled activations, for calibration: float32 (N, L*F + H + 1)."""

    def pack(self, pooled: Pooled) -> torch.Tensor:
        """One row for each example."""
        return pack_pooled(pooled)


@dataclass(frozen=True, slots=True, eq=False)
class StateRows:
    """Rows are states: int16 (N, columns), as `reducer` packs them.

    `calibration` is the file that the reducer's calibration came from. An engine that packs rows in
    processes of its own reads it there; the others need none.
    """

    reducer: StateReducer
    calibration: Path | None = None

    def pack(self, pooled: Pooled) -> torch.Tensor:
        """One row for each example."""
        return self.reducer.pack(pooled)


RowsAs = PooledRows | StateRows


@dataclass(slots=True)
class RunStats:
    """What runs did so far. `padded_tokens`: computed by the model, padding included.

    `cut_rows`: rows that were cut to fit. `failures`: why a row has no result, by its number.
    """

    tokens: int = 0
    padded_tokens: int = 0
    cut_rows: int = 0
    failures: dict[int, RowError] = field(default_factory=dict)


# Takes row numbers and their packed rows, in the order of the numbers.
Sink = Callable[[Sequence[int], Packed], None]


class Engine(Protocol):
    """A model that is loaded and hooked.

    `device`: where a caller should put pooled activations that it wants to pack itself. `peak`: the
    speed that the device's vendor promises; None where it is not known.
    """

    layers: int
    width: int
    hidden_size: int
    device: torch.device
    peak: Peak | None

    def run(
        self,
        windows: Iterable[Mapping[int, TokenisedExample]],
        rows_as: RowsAs,
        stats: RunStats,
        sink: Sink,
        journal: Journal | None = None,
    ) -> None:
        """Run the examples of one piece of work, such as a shard.

        Examples come by their row number, in windows: the next window is asked for when the one
        before is computed. `rows_as` says what a packed row is. Every row ends in `sink` or in
        `stats.failures`. What the process is about to run, and what it has run, goes into
        `journal`; rows that earlier processes kept there are counted in `stats`, but neither run
        again nor given to `sink`. Raises ModelError when the engine itself fails.
        """


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
    """Raise ModelError when the model failed on every row: then the rows are not the reason."""
    broken = [e for e in stats.failures.values() if e.reason in ("model_error", "cannot_render")]
    if rows > 1 and len(broken) == rows:
        raise ModelError(f"the model fails on every one of {rows} rows: {broken[0].message}")
