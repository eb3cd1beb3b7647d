"""Run tokenised examples in micro-batches and lose none, whatever single rows or the device do."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import torch

from mads_ray.capture.engines.batching import TokenBudget, batch_end, by_length
from mads_ray.capture.engines.compiling import cannot_compile
from mads_ray.capture.engines.engine import (
    TRIED_ALONE,
    RowsAs,
    RunStats,
    Sink,
    hand_over,
    within,
)
from mads_ray.capture.journal import Journal
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import Packed, Pooled
from mads_ray.errors import RowError

log = logging.getLogger(__name__)

_FULL = "out_of_memory"


class PoolingModel(Protocol):
    """What runs one batch: a forward pass that gives pooled activations."""

    device: torch.device
    vocabulary: int

    def pool(self, examples: Sequence[TokenisedExample]) -> Pooled:
        """Pooled activations of a few examples."""


@dataclass(slots=True)
class MicroBatches:
    """Runs one piece of work, window by window. The fields are as in `Engine.run`.

    While another device than the CPU computes a batch, the host hands over the one before it. When
    the device runs out of memory, the token budget shrinks and the batch is made smaller. A batch
    that fails for another reason is run again row by row, so that one bad row does not cost the
    others of its batch. A row that fails alone, or whose activations are not finite, goes to
    `stats.failures`.

    Batches are planned over all rows, also over those that an earlier process ran. Otherwise a row
    would share its batch with other rows after a restart, and the last bits of its activations
    would change.
    """

    model: PoolingModel
    budget: TokenBudget
    rows_as: RowsAs
    stats: RunStats
    sink: Sink
    journal: Journal
    _under_way: list[_Arriving] = field(default_factory=list)

    def run(self, examples: Mapping[int, TokenisedExample]) -> None:
        """Run one window; at the end nothing is under way."""
        rows = list(within(self.model.vocabulary, None, examples, self.stats))
        order = [rows[i] for i in by_length([len(examples[r].ids_T) for r in rows])]
        lengths = [len(examples[r].ids_T) for r in order]
        kept = self.journal.history.kept
        self.stats.tokens += sum(len(examples[r].ids_T) for r in order if r in kept)
        start, alone_until = 0, 0
        while start < len(order):
            end = start + 1
            if start >= alone_until:
                end = batch_end(lengths, start, self.budget.tokens)
            padded = (end - start) * lengths[start]
            batch = self.journal.left(order[start:end])
            if not batch:
                self.stats.padded_tokens += padded
                start = end
                continue
            if self.journal.deaths(batch):
                self._hand_over_all_but(0)  # if this one dies, those must not look guilty
            together = self.journal.deaths_together(batch)
            if len(batch) > 1 and together >= TRIED_ALONE:
                if together > TRIED_ALONE:
                    alone_until = end
                    continue
                self._try_alone(batch, examples)
            begun = self._begin(batch, examples)
            if isinstance(begun, _Arriving):
                self.budget.fitted()
                self.stats.tokens += sum(len(examples[r].ids_T) for r in batch)
                self.stats.padded_tokens += padded
                self._under_way.append(begun)
                self._hand_over_all_but(0 if self.model.device.type == "cpu" else 1)
                start = end
                continue
            self.journal.end(batch)
            if begun.reason == _FULL:
                torch.cuda.empty_cache()
            if len(batch) == 1:
                self.stats.failures[batch[0]] = begun
                start = end
            elif begun.reason != _FULL or not self._shrink(batch, padded):
                alone_until = end
        self._hand_over_all_but(0)

    def _begin(
        self, batch: Sequence[int], examples: Mapping[int, TokenisedExample]
    ) -> _Arriving | RowError:
        """Run a batch: its packed rows on their way, or why it failed."""
        self.journal.begin(batch)
        try:
            return self._pack(batch, examples)
        except torch.cuda.OutOfMemoryError:
            pass  # here the traceback still holds the memory
        except torch._dynamo.exc.TorchDynamoException as e:
            raise cannot_compile(e) from e  # not the fault of these rows
        except (RuntimeError, ValueError, IndexError) as e:
            _leave_broken_device(self.model.device)
            return RowError("model_error", "", f"{type(e).__name__}: {e}")
        longest = len(examples[batch[0]].ids_T)
        return RowError(_FULL, "", f"{longest} tokens do not fit the device's memory")

    def _pack(self, rows: Sequence[int], examples: Mapping[int, TokenisedExample]) -> _Arriving:
        pooled = self.model.pool([examples[r] for r in rows])
        return _Arriving(rows, self.rows_as.pack(pooled))

    def _shrink(self, batch: Sequence[int], padded: int) -> bool:
        """Lower the budget after a batch that did not fit; whether the next one is smaller."""
        self.budget.ran_out(padded)
        log.warning(
            "out of device memory with %d rows; batches of %d tokens from here",
            len(batch),
            self.budget.tokens,
        )
        return padded > self.budget.tokens

    def _hand_over_all_but(self, most: int) -> None:
        """Wait until at most so many batches are under way."""
        while len(self._under_way) > most:
            arrived = self._under_way.pop(0)
            hand_over(arrived.rows, arrived.wait(), self.stats, self.sink)
            self.journal.end(arrived.rows)

    def _try_alone(self, batch: Sequence[int], examples: Mapping[int, TokenisedExample]) -> None:
        """Run each row alone, so that the journal shows which one ends the process.

        The results are dropped: the states of these rows are those of their batch.
        """
        for row in batch:
            self.journal.begin([row])
            try:
                self._pack([row], examples).wait()
            except (RuntimeError, ValueError, IndexError):  # the batch will show it again
                _leave_broken_device(self.model.device)
            self.journal.end([row])


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
        """The rows. If the device has failed since, the process ends here."""
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
    """End the process. The pool starts another one, which runs the shard again."""
    log.critical("the CUDA context is broken; leaving this process")
    os._exit(1)
