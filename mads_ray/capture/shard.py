"""Capture one shard: conversations in, activation states and quarantined rows out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mads_ray.capture.batching import token_budget_batches
from mads_ray.capture.prompts import PromptRenderer, TokenisedExample
from mads_ray.capture.state import StateReducer
from mads_ray.capture.transformers_engine import Pooled, TransformersEngine
from mads_ray.corpus.schemas import messages_from_json
from mads_ray.errors import ModelError, RowError
from mads_ray.states import fixed_list, states_schema

log = logging.getLogger(__name__)

_KNOWN_ROWS = 32

Sink = Callable[[Sequence[int], Pooled], None]


@dataclass(slots=True)
class RunStats:
    """Work done by `run_batches`; padded tokens are what the model computed."""

    tokens: int = 0
    padded_tokens: int = 0
    cut_rows: int = 0
    failures: dict[int, RowError] = field(default_factory=dict)


def tokenise(
    renderer: PromptRenderer, messages_json: Sequence[str], stats: RunStats
) -> list[TokenisedExample | None]:
    """Tokenise every row; rows that cannot be are None and recorded in `stats.failures`."""
    examples: list[TokenisedExample | None] = []
    for i, text in enumerate(messages_json):
        try:
            example = renderer(messages_from_json(text))
            stats.cut_rows += example.cut > 0
            examples.append(example)
        except Exception as e:  # templates and tokenizers are code of others
            unexpected = RowError("cannot_render", "", f"{type(e).__name__}: {e}")
            stats.failures[i] = e if isinstance(e, RowError) else unexpected
            examples.append(None)
    return examples


def run_batches(
    engine: TransformersEngine,
    examples: Sequence[TokenisedExample | None],
    token_budget: int,
    stats: RunStats,
    sink: Sink,
) -> None:
    """Run every example through the engine and hand (row indices, pooled) to `sink`.

    Out of device memory halves the micro-batch and goes on. A batch that fails otherwise is tried
    row by row, so that one poisonous row cannot take its batch mates with it; what still fails
    alone, or has activations that are not finite, is recorded in `stats.failures`.
    """
    present = [i for i, e in enumerate(examples) if e is not None]
    lengths = [len(_of(examples, i).ids_T) for i in present]
    todo = [[present[j] for j in b] for b in token_budget_batches(lengths, token_budget)]
    todo.reverse()
    while todo:
        batch = todo.pop()
        chosen = [_of(examples, i) for i in batch]
        try:
            pooled = engine.pool(chosen)
        except torch.cuda.OutOfMemoryError:
            if len(batch) == 1:
                message = f"{len(chosen[0].ids_T)} tokens do not fit the device's memory"
                stats.failures[batch[0]] = RowError("out_of_memory", "", message)
                continue
            torch.cuda.empty_cache()
            log.warning("out of device memory with %d rows; halving the micro-batch", len(batch))
            middle = len(batch) // 2
            todo += [batch[middle:], batch[:middle]]
            continue
        except (RuntimeError, ValueError, IndexError) as e:
            _leave_broken_device(engine.device)
            if len(batch) == 1:
                stats.failures[batch[0]] = RowError("model_error", "", f"{type(e).__name__}: {e}")
            else:
                todo += [[i] for i in reversed(batch)]
            continue
        finite_B = torch.isfinite(pooled.peak_BLF).all(-1).all(-1).cpu().numpy()
        for row in np.flatnonzero(~finite_B):
            stats.failures[batch[row]] = RowError(
                "not_finite", "", "the model's activations are not finite for this row"
            )
        stats.tokens += sum(len(e.ids_T) for e in chosen)
        stats.padded_tokens += len(chosen) * max(len(e.ids_T) for e in chosen)
        good = np.flatnonzero(finite_B)
        if len(good) == len(batch):
            sink(batch, pooled)
        elif len(good):
            at = torch.from_numpy(good).to(pooled.peak_BLF.device)
            sink([batch[i] for i in good], Pooled(pooled.peak_BLF[at], pooled.hidden_BH[at]))


def _leave_broken_device(device: torch.device) -> None:
    """After an illegal access every later CUDA call of the process fails: end it.

    The orchestration replaces the process and runs the shard again; nothing was committed.
    """
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError:
            log.critical("the CUDA context is broken; leaving this process")
            os._exit(1)


def refuse_total_failure(stats: RunStats, rows: int) -> None:
    """Raise ModelError when the model failed on every row: that is no matter of single rows."""
    broken = [e for e in stats.failures.values() if e.reason in ("model_error", "cannot_render")]
    if rows > 1 and len(broken) == rows:
        raise ModelError(f"the model fails on every one of {rows} rows: {broken[0].message}")


def capture_shard(
    engine: TransformersEngine,
    renderer: PromptRenderer,
    reducer: StateReducer,
    shard: pa.Table,
    token_budget: int,
    store_hidden: bool = False,
    store_raw: bool = False,
    known: Mapping[int, tuple[Any, Any]] | None = None,
) -> tuple[pa.Table, RunStats, float]:
    """Return (states in shard order, what failed and was done, seconds). Failed rows are absent.

    `known` has (peak_LF, hidden_H) of rows that the calibration sample ran through the model.
    """
    started = time.perf_counter()
    stats = RunStats()
    examples = tokenise(renderer, shard.column("messages").to_pylist(), stats)
    rows: dict[int, dict[str, Any]] = {}

    def keep(batch: Sequence[int], pooled: Pooled) -> None:
        neurons, sketches = reducer.reduce(pooled.peak_BLF)
        columns: dict[str, Any] = {"neurons": neurons, "sketch": sketches}
        if store_hidden:
            columns["hidden"] = pooled.hidden_BH.cpu().numpy().astype(np.float16)
        if store_raw:
            columns["raw_neurons"] = reducer.reduce_raw(pooled.peak_BLF)
        for at, i in enumerate(batch):
            rows[i] = {name: column[at] for name, column in columns.items()}

    known = known or {}
    unknown = [None if i in known else e for i, e in enumerate(examples)]
    run_batches(engine, unknown, token_budget, stats, keep)
    for start in range(0, len(known), _KNOWN_ROWS):
        chunk = sorted(known)[start : start + _KNOWN_ROWS]
        peak, hidden = (np.stack([known[i][part] for i in chunk]) for part in (0, 1))
        keep(chunk, Pooled(*(torch.from_numpy(a).to(engine.device) for a in (peak, hidden))))
    refuse_total_failure(stats, shard.num_rows)
    slots, hidden_dim = engine.layers * reducer.k, engine.hidden_size if store_hidden else 0
    schema = states_schema(slots, reducer.sketch_dim, hidden_dim, store_raw)
    table = _states_table(schema, shard, examples, rows)
    return table, stats, time.perf_counter() - started


def _states_table(
    schema: pa.Schema,
    shard: pa.Table,
    examples: Sequence[TokenisedExample | None],
    rows: dict[int, dict[str, Any]],
) -> pa.Table:
    done = sorted(rows)
    index = pa.array(done, pa.int64())
    if not done:
        return schema.empty_table()
    columns = {
        "uid": shard.column("uid").take(index),
        "row_id": shard.column("row_id").take(index),
        "n_tokens": pa.array([len(_of(examples, i).ids_T) for i in done], pa.int32()),
        "cut_tokens": pa.array([_of(examples, i).cut for i in done], pa.int32()),
    }
    for name in rows[done[0]]:
        columns[name] = fixed_list(np.stack([rows[i][name] for i in done]))
    return pa.table(columns, schema=schema)


def _of(examples: Sequence[TokenisedExample | None], i: int) -> TokenisedExample:
    example = examples[i]
    assert example is not None
    return example
