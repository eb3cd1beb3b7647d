"""Run tokenised examples through the transformers engine in micro-batches, and lose none."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch

from mads_ray.capture.engines.batching import TokenBudget, batch_end, by_length
from mads_ray.capture.engines.compiling import cannot_compile
from mads_ray.capture.engines.engine import (
    TRIED_ALONE,
    Reduce,
    RunStats,
    Sink,
    hand_over,
    within,
)
from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.journal import Journal
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import Packed
from mads_ray.errors import RowError

log = logging.getLogger(__name__)


def run_batches(
    engine: TransformersEngine,
    budget: TokenBudget,
    reduce: Reduce,
    examples: Mapping[int, TokenisedExample],
    stats: RunStats,
    sink: Sink,
    journal: Journal | None = None,
) -> None:
    """Run examples, by row number, through the engine; hand (row numbers, packed rows) to `sink`.

    While another device than the CPU computes a batch, the host hands over the one before it. Out
    of device memory shrinks the token budget and goes on. A batch that fails otherwise is tried row
    by row, so that one poisonous row cannot take its batch mates with it; what still fails alone,
    or has activations that are not finite, is recorded in `stats.failures`.

    Batches are planned over all rows, also over those that an earlier process ran: which process
    runs a batch must not change its mates, and with them the last bits of its activations.
    """
    journal = journal or Journal()
    rows = list(within(engine.vocabulary, None, examples, stats))
    order = [rows[i] for i in by_length([len(examples[r].ids_T) for r in rows])]
    lengths = [len(examples[r].ids_T) for r in order]
    stats.tokens += sum(len(examples[r].ids_T) for r in order if r in journal.history.kept)
    start, alone_until = 0, 0
    under_way: list[_Arriving] = []

    def settle(most: int) -> None:
        while len(under_way) > most:
            arrived = under_way.pop(0)
            hand_over(arrived.rows, arrived.wait(), stats, sink)
            journal.end(arrived.rows)

    while start < len(order):
        end = start + 1 if start < alone_until else batch_end(lengths, start, budget.tokens)
        planned, padded = order[start:end], (end - start) * lengths[start]
        batch = journal.left(planned)
        if not batch:
            stats.padded_tokens += padded
            start = end
            continue
        if journal.deaths(batch):
            settle(0)  # a batch that is innocent must not look guilty again
        together = journal.deaths_together(batch)
        if len(batch) > 1 and together >= TRIED_ALONE:
            if together > TRIED_ALONE:
                alone_until = end
                continue
            _try_alone(engine, reduce, batch, examples, journal)
        journal.begin(batch)
        arriving, full = None, False
        try:
            arriving = _Arriving(batch, reduce(engine.pool([examples[r] for r in batch])))
        except torch.cuda.OutOfMemoryError:
            full = True  # here the traceback still holds the memory
        except torch._dynamo.exc.TorchDynamoException as e:
            raise cannot_compile(e) from e  # no fault of these rows
        except (RuntimeError, ValueError, IndexError) as e:
            _leave_broken_device(engine.device)
            journal.end(batch)
            if len(batch) > 1:
                alone_until = end
                continue
            stats.failures[batch[0]] = RowError("model_error", "", f"{type(e).__name__}: {e}")
        if arriving is not None:
            budget.fitted()
            stats.tokens += sum(len(examples[r].ids_T) for r in batch)
            stats.padded_tokens += padded
            under_way.append(arriving)
            settle(0 if engine.device.type == "cpu" else 1)
        if full:
            journal.end(batch)
            torch.cuda.empty_cache()
            if len(batch) > 1:
                budget.ran_out(padded)
                if padded <= budget.tokens:
                    alone_until = end
                log.warning(
                    "out of device memory with %d rows; batches of %d tokens from here",
                    len(batch),
                    budget.tokens,
                )
                continue
            message = f"{lengths[start]} tokens do not fit the device's memory"
            stats.failures[batch[0]] = RowError("out_of_memory", "", message)
        start = end
    settle(0)


def _try_alone(
    engine: TransformersEngine,
    reduce: Reduce,
    batch: Sequence[int],
    examples: Mapping[int, TokenisedExample],
    journal: Journal,
) -> None:
    """Run each row alone, for the record of who ends the process; the states are the batch's."""
    for row in batch:
        journal.begin([row])
        try:
            _Arriving([row], reduce(engine.pool([examples[row]]))).wait()
        except (RuntimeError, ValueError, IndexError):  # the batch will tell
            _leave_broken_device(engine.device)
        journal.end([row])


class _Arriving:
    """Packed rows on their way from the device."""

    def __init__(self, rows: Sequence[int], packed_BW: torch.Tensor) -> None:
        self.rows = rows
        self._host_BW = packed_BW.to("cpu", non_blocking=True)
        self._copied: Any = None
        if packed_BW.device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def wait(self) -> Packed:
        """The rows; a device that failed since ends the process."""
        if self._copied is not None:
            try:
                self._copied.synchronize()
            except RuntimeError:
                _leave()
        return self._host_BW.numpy()


def _leave_broken_device(device: torch.device) -> None:
    """After an illegal access every later CUDA call of the process fails: end it."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError:
            _leave()


def _leave() -> NoReturn:
    """The orchestration replaces the process and runs the shard again; nothing was committed."""
    log.critical("the CUDA context is broken; leaving this process")
    os._exit(1)
