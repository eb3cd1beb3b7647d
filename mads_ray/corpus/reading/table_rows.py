"""Read rows of Parquet, Arrow and saved `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mads_ray.corpus.reading.discovery import InputFile
from mads_ray.corpus.reading.filesystem import open_filesystem
from mads_ray.corpus.reading.raw_row import RawRow, as_row
from mads_ray.errors import BrokenFileError, CorpusError

_ROWS = 512  # as Python objects at a time
_ARROW_FILE = b"ARROW1"


def read_parquet(file: InputFile) -> Iterator[RawRow]:
    """Yield the rows of a Parquet file. Memory holds one row group."""
    fs, path = open_filesystem(file.path)
    with fs.open_input_file(path) as source, pq.ParquetFile(source) as parquet:
        _require_names(file, parquet.schema_arrow.names)
        yield from _rows(parquet.iter_batches(batch_size=_ROWS))


def read_groups(file: InputFile, start: int, stop: int, first_row: int) -> Iterator[RawRow]:
    """Yield the rows of some row groups of a Parquet file; `first_row` rows come before them."""
    fs, path = open_filesystem(file.path)
    with fs.open_input_file(path) as source, pq.ParquetFile(source) as parquet:
        _require_names(file, parquet.schema_arrow.names)
        groups = list(range(start, stop))
        yield from _rows(parquet.iter_batches(batch_size=_ROWS, row_groups=groups), first_row)


def row_groups(file: InputFile) -> list[tuple[int, int]]:
    """The rows of each row group of a Parquet file, and its bytes in memory, by the footer."""
    fs, path = open_filesystem(file.path)
    with fs.open_input_file(path) as source:
        footer = pq.read_metadata(source)
        groups = map(footer.row_group, range(footer.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in groups]


def read_arrow(file: InputFile) -> Iterator[RawRow]:
    """Yield the rows of an Arrow IPC file or stream. Memory holds one record batch."""
    fs, path = open_filesystem(file.path)
    with fs.open_input_file(path) as source:
        if source.read(len(_ARROW_FILE)) == _ARROW_FILE:
            with pa.ipc.open_file(source) as batches:
                _require_names(file, batches.schema.names)
                numbers = range(batches.num_record_batches)
                yield from _rows(batches.get_batch(i) for i in numbers)
            return
        size = source.size()
        source.seek(max(0, size - 4))
        if source.read(4) != b"\0\0\0\0":  # a cut between two batches would look complete
            raise EOFError("no Arrow data, or cut short: it has no end mark")
        source.seek(0)
        with pa.ipc.open_stream(source) as stream:
            _require_names(file, stream.schema.names)
            yield from _rows(stream)


def read_dataset(file: InputFile) -> Iterator[RawRow]:
    """Yield the rows of one split that `datasets.save_to_disk` wrote."""
    try:
        import datasets
    except ImportError as e:
        raise CorpusError(
            f"{file.path}: a datasets folder needs: pip install 'mads_ray[datasets]'"
        ) from e
    try:
        loaded = datasets.load_from_disk(file.path)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as e:
        raise BrokenFileError(f"{file.path}: not a datasets.save_to_disk folder: {e}") from e
    # A saved format would hide or convert fields.
    for index, value in enumerate(loaded.with_format(None)):
        yield as_row(index, value)


def _rows(batches: Any, index: int = 0) -> Iterator[RawRow]:
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            for value in batch.slice(start, _ROWS).to_pylist():
                yield as_row(index, value)
                index += 1


def _require_names(file: InputFile, names: Sequence[str]) -> None:
    """Raise BrokenFileError for two columns of one name: they would become one field."""
    if len(set(names)) < len(names):
        twice = next(n for n in names if list(names).count(n) > 1)
        raise BrokenFileError(f"{file.path}: it has two columns of the name {twice!r}; rename one")
