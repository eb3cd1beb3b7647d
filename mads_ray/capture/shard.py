"""Capture one shard: conversations in, activation states and quarantined rows out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from mads_ray.capture.batching import TokenBudget, batch_end, by_length
from mads_ray.capture.prompts import PromptRenderer, TokenisedExample
from mads_ray.capture.state import StateReducer
from mads_ray.capture.transformers_engine import Pooled, TransformersEngine
from mads_ray.corpus.schemas import messages_from_json
from mads_ray.errors import ModelError, RowError
from mads_ray.states import fixed_list, states_schema

log = logging.getLogger(__name__)

# Rows that are sorted by length together. Of batches of 16,384 tokens 6% are padding, of 2,048 less
# than 1%; with windows of 1,024 rows it is 15% and 2%.
WINDOW = 4096
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
    renderer: PromptRenderer, messages_json: Mapping[int, str], stats: RunStats
) -> dict[int, TokenisedExample]:
    """Tokenise rows by their number; those that cannot be are recorded in `stats.failures`."""
    examples = {}
    for i, text in messages_json.items():
        try:
            examples[i] = renderer(messages_from_json(text))
            stats.cut_rows += examples[i].cut > 0
        except Exception as e:  # templates and tokenizers are code of others
            unexpected = RowError("cannot_render", "", f"{type(e).__name__}: {e}")
            stats.failures[i] = e if isinstance(e, RowError) else unexpected
    return examples


def tokenised_windows(
    renderer: PromptRenderer, messages_json: Sequence[str], stats: RunStats
) -> Iterator[dict[int, TokenisedExample]]:
    """Windows of `WINDOW` rows; a thread tokenises the next one while the caller computes."""
    pieces = [
        {i: messages_json[i] for i in range(start, min(start + WINDOW, len(messages_json)))}
        for start in range(0, len(messages_json), WINDOW)
    ]
    with ThreadPoolExecutor(1, "tokenise") as thread:
        futures = (thread.submit(tokenise, renderer, piece, stats) for piece in pieces)
        ahead = next(futures, None)
        while ahead is not None:
            examples = ahead.result()
            ahead = next(futures, None)  # submits the next one
            yield examples


def run_batches(
    engine: TransformersEngine,
    examples: Mapping[int, TokenisedExample],
    budget: TokenBudget,
    stats: RunStats,
    sink: Sink,
) -> None:
    """Run examples, by row number, through the engine; hand (row numbers, pooled) to `sink`.

    Out of device memory shrinks the token budget and goes on. A batch that fails otherwise is tried
    row by row, so that one poisonous row cannot take its batch mates with it; what still fails
    alone, or has activations that are not finite, is recorded in `stats.failures`.
    """
    rows = list(examples)
    order = [rows[i] for i in by_length([len(examples[r].ids_T) for r in rows])]
    lengths = [len(examples[r].ids_T) for r in order]
    start, alone_until = 0, 0
    while start < len(order):
        end = start + 1 if start < alone_until else batch_end(lengths, start, budget.tokens)
        batch, padded = order[start:end], (end - start) * lengths[start]
        full = False
        try:
            _run_batch(engine, batch, examples, stats, sink)
        except torch.cuda.OutOfMemoryError:
            full = True  # here the traceback still holds the memory
        except (RuntimeError, ValueError, IndexError) as e:
            _leave_broken_device(engine.device)
            if len(batch) > 1:
                alone_until = end
                continue
            stats.failures[batch[0]] = RowError("model_error", "", f"{type(e).__name__}: {e}")
        else:
            budget.fitted()
            stats.tokens += sum(lengths[start:end])
            stats.padded_tokens += padded
        if full:
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


def _run_batch(
    engine: TransformersEngine,
    batch: Sequence[int],
    examples: Mapping[int, TokenisedExample],
    stats: RunStats,
    sink: Sink,
) -> None:
    pooled = engine.pool([examples[r] for r in batch])
    finite_B = torch.isfinite(pooled.acts_BLF).all(-1).all(-1).cpu().numpy()
    good = np.flatnonzero(finite_B).tolist()
    if len(good) == len(batch):
        sink(batch, pooled)
    elif len(good):
        at = torch.tensor(good).to(pooled.acts_BLF.device)
        sink([batch[i] for i in good], Pooled(pooled.acts_BLF[at], pooled.hidden_BH[at]))
    for i in np.flatnonzero(~finite_B).tolist():
        stats.failures[batch[i]] = RowError(
            "not_finite", "", "the model's activations are not finite for this row"
        )


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
    token_budget: TokenBudget,
    store_hidden: bool = False,
    store_raw: bool = False,
    known: Mapping[int, tuple[Any, Any]] | None = None,
) -> tuple[pa.Table, RunStats, float]:
    """Return (states in shard order, what failed and was done, seconds). Failed rows are absent.

    `known` has (acts_LF, hidden_H) of rows that the calibration sample ran through the model.
    """
    started = time.perf_counter()
    stats, known = RunStats(), known or {}
    texts = shard.column("messages").to_pylist()
    size_N2 = np.zeros((len(texts), 2), np.int32)  # tokens that stay, and that were cut
    rows: dict[int, dict[str, Any]] = {}

    def keep(batch: Sequence[int], pooled: Pooled) -> None:
        neurons, sketches = reducer.reduce(pooled.acts_BLF)
        columns: dict[str, Any] = {"neurons": neurons, "sketch": sketches}
        if store_hidden:
            columns["hidden"] = pooled.hidden_BH.cpu().numpy().astype(np.float16)
        if store_raw:
            columns["raw_neurons"] = reducer.reduce_raw(pooled.acts_BLF)
        for at, i in enumerate(batch):
            rows[i] = {name: column[at] for name, column in columns.items()}

    for examples in tokenised_windows(renderer, texts, stats):
        for i, example in examples.items():
            size_N2[i] = len(example.ids_T), example.cut
        unknown = {i: e for i, e in examples.items() if i not in known}
        run_batches(engine, unknown, token_budget, stats, keep)
    for start in range(0, len(known), _KNOWN_ROWS):
        chunk = sorted(known)[start : start + _KNOWN_ROWS]
        acts, hidden = (np.stack([known[i][part] for i in chunk]) for part in (0, 1))
        keep(chunk, Pooled(*(torch.from_numpy(a).to(engine.device) for a in (acts, hidden))))
    refuse_total_failure(stats, shard.num_rows)
    slots, hidden_dim = engine.layers * reducer.k, engine.hidden_size if store_hidden else 0
    schema = states_schema(slots, reducer.sketch_dim, hidden_dim, store_raw)
    table = _states_table(schema, shard, size_N2, rows)
    return table, stats, time.perf_counter() - started


def _states_table(
    schema: pa.Schema,
    shard: pa.Table,
    size_N2: npt.NDArray[np.int32],
    rows: dict[int, dict[str, Any]],
) -> pa.Table:
    done = sorted(rows)
    index = pa.array(done, pa.int64())
    if not done:
        return schema.empty_table()
    columns = {
        "uid": shard.column("uid").take(index),
        "row_id": shard.column("row_id").take(index),
        "n_tokens": pa.array(size_N2[done, 0]),
        "cut_tokens": pa.array(size_N2[done, 1]),
    }
    for name in rows[done[0]]:
        columns[name] = fixed_list(np.stack([rows[i][name] for i in done]))
    return pa.table(columns, schema=schema)
