"""Capture one shard: conversations in, activation states and quarantined rows out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from mads_ray.capture.engines.engine import (
    TRIED_ALONE,
    Engine,
    RunStats,
    StateRows,
    refuse_total_failure,
)
from mads_ray.capture.journal import Journal
from mads_ray.capture.prompts.examples import PromptRenderer, TokenisedExample
from mads_ray.capture.reducer import Packed, Pooled, StateReducer
from mads_ray.corpus.conversation import Conversation
from mads_ray.errors import RowError
from mads_ray.states import fixed_list, states_schema

# Rows that are sorted by length together. Of batches of 16,384 tokens 7% are padding, of 2,048 less
# than 1%; with windows of 1,024 rows it is 15% and 2%.
WINDOW = 4096
_KNOWN_ROWS = 32
# Tokenised between two heartbeats: a fraction of a second. One long row is a group of its own.
_GROUP_ROWS, _GROUP_CHARS = 64, 2**18


def tokenise(
    renderer: PromptRenderer,
    messages_json: Mapping[int, str],
    stats: RunStats,
    journal: Journal | None = None,
) -> dict[int, TokenisedExample]:
    """Tokenise rows, given as JSON by their number; those that fail go to `stats.failures`.

    A row may end the process here, or hang it: the journal shows which rows it was working on.
    """
    journal = journal or Journal()
    unreadable = journal.history.unreadable
    stats.failures.update((i, unreadable[i]) for i in messages_json if i in unreadable)
    left = {i: text for i, text in messages_json.items() if i not in unreadable}
    examples = {}
    for group in _groups(left, journal):
        with journal.reading(group):
            for i in group:
                try:
                    examples[i] = renderer(Conversation.from_json(left[i]))
                    stats.cut_rows += examples[i].cut > 0
                except Exception as e:  # templates and tokenizers are code of others
                    unexpected = RowError("cannot_render", "", f"{type(e).__name__}: {e}")
                    stats.failures[i] = e if isinstance(e, RowError) else unexpected
    return examples


def _groups(texts: Mapping[int, str], journal: Journal) -> Iterator[list[int]]:
    """Rows in order, in groups that are tokenised between two heartbeats; suspects alone."""
    group: list[int] = []
    size = 0
    for i, text in texts.items():
        suspect = journal.history.text_deaths[i] >= TRIED_ALONE
        full = len(group) == _GROUP_ROWS or size + len(text) > _GROUP_CHARS
        if group and (suspect or full):
            yield group
            group, size = [], 0
        if suspect:
            yield [i]
            continue
        group.append(i)
        size += len(text)
    if group:
        yield group


def windows_of(sizes: Sequence[int]) -> list[list[int]]:
    """Row numbers by the window in which to run them: of each `WINDOW` rows the longest 32nd first.

    These few are tokenised quickly, and run long enough for the others to be tokenised meanwhile.
    Sizes need only be roughly proportional to the numbers of tokens.
    """
    windows = []
    for start in range(0, len(sizes), WINDOW):
        rows = range(start, min(start + WINDOW, len(sizes)))
        longest = sorted(rows, key=lambda i: (-sizes[i], i))[: len(rows) // 32]
        first = set(longest)
        windows += [longest, [i for i in rows if i not in first]]
    return [w for w in windows if w]


def tokenised_windows(
    renderer: PromptRenderer,
    messages_json: Sequence[str],
    stats: RunStats,
    journal: Journal | None = None,
) -> Iterator[dict[int, TokenisedExample]]:
    """Tokenised rows, in windows by the length of their text.

    A thread tokenises the next window while the caller computes one. Where a process died before,
    one does not overlap the other: then the journal shows what the next process dies of.
    """
    journal = journal or Journal()
    windows = windows_of([len(text) for text in messages_json])
    if journal.history.suspicious:
        for window in windows:
            yield tokenise(renderer, {i: messages_json[i] for i in window}, stats, journal)
        return
    with ThreadPoolExecutor(1, "tokenise") as thread:
        futures = (
            thread.submit(tokenise, renderer, {i: messages_json[i] for i in window}, stats, journal)
            for window in windows
        )
        ahead = next(futures, None)
        while ahead is not None:
            examples = ahead.result()
            ahead = next(futures, None)  # submits the next one
            yield examples


# Messages as JSON, statistics and the journal; yields windows of examples by their row number.
Windows = Callable[[Sequence[str], RunStats, Journal], Iterator[dict[int, TokenisedExample]]]


def capture_shard(
    engine: Engine,
    tokenised: Windows,
    states: StateRows,
    shard: pa.Table,
    known: Mapping[int, tuple[Any, Any]] | None = None,
    journal: Journal | None = None,
) -> tuple[pa.Table, RunStats, float]:
    """Return (states in shard order, what failed and was done, seconds). Failed rows are absent.

    `tokenised` renders and tokenises: `partial(tokenised_windows, renderer)`, or a `TokenisedShard`
    where another process did. `known`: (acts_LF, hidden_H) of rows that the calibration sample ran
    through the model.
    `journal` has what earlier processes kept of the shard; this one adds what it keeps.
    """
    started = time.perf_counter()
    stats, known, journal = RunStats(), known or {}, journal or Journal()
    texts = shard.column("messages").to_pylist()
    size_N2 = np.zeros((len(texts), 2), np.int32)  # tokens that stay, and that were cut
    unreadable = journal.history.unreadable
    rows = {i: row for i, row in journal.history.kept.items() if i not in unreadable}
    stats.failures.update(journal.history.poison)

    def unknown() -> Iterator[dict[int, TokenisedExample]]:
        for examples in tokenised(texts, stats, journal):
            for i, example in examples.items():
                size_N2[i] = len(example.ids_T), example.cut
            yield {i: e for i, e in examples.items() if i not in known}

    def keep(batch: Sequence[int], packed_BW: Packed) -> None:
        rows.update(zip(batch, packed_BW, strict=True))
        journal.keep(batch, packed_BW)

    engine.run(unknown(), states, stats, keep, journal)
    reducer = states.reducer
    for start in range(0, len(known), _KNOWN_ROWS):
        chunk = sorted(known)[start : start + _KNOWN_ROWS]
        acts, hidden = (np.stack([known[i][part] for i in chunk]) for part in (0, 1))
        pooled = Pooled(*(torch.from_numpy(a).to(reducer.device) for a in (acts, hidden)))
        rows.update(zip(chunk, states.pack(pooled).cpu().numpy(), strict=True))
    refuse_total_failure(stats, shard.num_rows)
    table = _states_table(reducer, shard, size_N2, rows)
    return table, stats, time.perf_counter() - started


def _states_table(
    reducer: StateReducer,
    shard: pa.Table,
    size_N2: npt.NDArray[np.int32],
    rows: dict[int, Packed],
) -> pa.Table:
    schema = states_schema(reducer.slots, reducer.sketch_dim, reducer.hidden_dim, reducer.store_raw)
    if not rows:
        return schema.empty_table()
    done = sorted(rows)
    index = pa.array(done, pa.int64())
    columns = {
        "uid": shard.column("uid").take(index),
        "row_id": shard.column("row_id").take(index),
        "n_tokens": pa.array(size_N2[done, 0]),
        "cut_tokens": pa.array(size_N2[done, 1]),
    }
    packed_NW = np.stack([rows[i] for i in done])
    columns |= {name: fixed_list(c) for name, c in reducer.unpack(packed_NW).items()}
    return pa.table(columns, schema=schema)
