"""The tokenised rows of a shard, as they travel from a process that tokenises to one with a model.

One Arrow table a shard, in shard order: `ids` list<int32>, `own` list<bool>, `cut` int32 (tokens
that were cut off), and where a row cannot be rendered or tokenised `error`, JSON [reason, field,
message]; then the lists are empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mads_ray.capture.engines.engine import RunStats
from mads_ray.capture.journal import Journal
from mads_ray.capture.prompts.examples import PromptRenderer, TokenisedExample
from mads_ray.capture.shard import tokenise, windows_of
from mads_ray.errors import RowError

_SCHEMA = pa.schema(
    [
        ("ids", pa.large_list(pa.int32())),
        ("own", pa.large_list(pa.bool_())),
        ("cut", pa.int32()),
        ("error", pa.string()),
    ]
)


def tokenised_bytes(
    renderer: PromptRenderer, messages_json: Sequence[str], journal: Journal | None = None
) -> pa.Buffer:
    """Tokenise all rows of a shard; the table as an Arrow IPC stream."""
    stats = RunStats()
    examples = tokenise(renderer, dict(enumerate(messages_json)), stats, journal)
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for row in range(len(messages_json)):
        example, error = examples.get(row), stats.failures.get(row)
        told = None if error is None else json.dumps([error.reason, error.field, error.message])
        columns["ids"].append([] if example is None else example.ids_T)
        columns["own"].append([] if example is None else example.own_T)
        columns["cut"].append(0 if example is None else example.cut)
        columns["error"].append(told)
    sink = pa.BufferOutputStream()
    table = pa.table(columns, schema=_SCHEMA)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


class TokenisedShard:
    """Rows that another process has tokenised: `tokenised_windows` without a renderer."""

    def __init__(self, stream: pa.Buffer) -> None:
        with pa.ipc.open_stream(stream) as opened:
            self._table = opened.read_all().combine_chunks()

    def __call__(
        self, messages_json: Sequence[str], stats: RunStats, journal: Journal | None = None
    ) -> Iterator[dict[int, TokenisedExample]]:
        """Windows of examples; rows that failed go to `stats.failures`."""
        errors = self._table.column("error").to_pylist()
        assert len(errors) == len(messages_json), "tokens of another shard"
        stats.failures.update(
            (i, RowError(*json.loads(told))) for i, told in enumerate(errors) if told is not None
        )
        cut_N = self._table.column("cut").to_numpy()
        stats.cut_rows += int(np.count_nonzero(cut_N))
        ids, own = (_Lists(self._table.column(name)) for name in ("ids", "own"))
        for window in windows_of([len(text) for text in messages_json]):
            yield {
                i: TokenisedExample(ids.row(i), own.row(i), int(cut_N[i]))
                for i in window
                if errors[i] is None
            }


class _Lists:
    """The rows of a list column as arrays."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        self._values = lists.values.to_numpy(zero_copy_only=False)
        self._starts = lists.offsets.to_numpy()

    def row(self, i: int) -> Any:
        # A copy: torch wants arrays that it could write to.
        return self._values[self._starts[i] : self._starts[i + 1]].copy()
