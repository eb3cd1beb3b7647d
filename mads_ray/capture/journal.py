"""What a process writes down about a piece of work, so that the next process can continue it.

A piece of work is a shard, or a group of the calibration sample; rows are numbers within it. Every
process that takes it appends to a file of its own:

- the rows whose text it is about to render and tokenise,
- the rows it is about to run through the model,
- the states of rows that are done,
- the rows after which it was still alive.

A process that takes over after a death reads all these files (`history.py`). It keeps the states,
runs the same batches except those that are done, and knows which rows were being worked on when a
process died.
"""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from mads_ray.capture.alarm import put_off
from mads_ray.capture.history import (
    BEGIN,
    CLOSED,
    END,
    HEAD,
    KEEP,
    SUFFIX,
    TEXT,
    TEXT_END,
    History,
    Packed,
    discard,
    read_history,
    record_deaths,
)
from mads_ray.errors import IncompleteError

_FRUITLESS = 5


class Journal:
    """This process's file about a piece of work, and the `history` of the processes before it.

    `key` names the work, `owner` the process: its job, and more after a hyphen. `ended_by_itself`
    says of another owner whether it died or hung over its rows. Without a folder nothing is
    written, and the history is empty. An exception that leaves the `with` block is no death: the
    process reports it.

    Raises IncompleteError where processes of this job ended one after the other without progress.
    """

    def __init__(
        self,
        folder: Path | None = None,
        key: str = "",
        owner: str = "",
        ended_by_itself: Callable[[str], bool] = lambda owner: False,
    ) -> None:
        self.history = History()
        self._file: BinaryIO | None = None
        self._open: set[int] = set()
        self._size = 0
        self._writing = Lock()  # a thread of its own tokenises
        if folder is not None:
            record_deaths(folder, key, ended_by_itself)
            self.history = read_history(folder, key, owner.partition("-")[0])
            if self.history.fruitless >= _FRUITLESS:
                raise IncompleteError(
                    f"{_FRUITLESS} workers in a row ended over {key} without getting on. Look for "
                    "them in Ray's logs. What is done is kept; the same command goes on."
                )
            name = f"{key}.{self.history.processes:04d}.{owner}.{uuid.uuid4().hex[:8]}{SUFFIX}"
            folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what was written survives this process.
            self._file = (folder / name).open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        try:
            if self._open:
                self.end(sorted(self._open))
            self._write(CLOSED, ())
        except OSError:
            if kind is None:
                raise  # otherwise the error that is being raised tells more
        finally:
            with self._writing:
                self._file.close()
                self._file = None

    def left(self, rows: Sequence[int]) -> list[int]:
        """Those of `rows` that are still to run: neither kept nor given up by earlier processes."""
        poison = self.history.poison
        return [r for r in rows if r not in self.history.kept and r not in poison]

    def deaths(self, rows: Sequence[int]) -> int:
        """The largest number of deaths of any of these rows."""
        return max((self.history.deaths[r] for r in rows), default=0)

    def deaths_together(self, rows: Sequence[int]) -> int:
        """The same, of deaths in a batch with other rows."""
        return max((self.history.deaths[r] - self.history.alone[r] for r in rows), default=0)

    @contextmanager
    def reading(self, rows: Sequence[int]) -> Iterator[None]:
        """In this block the process may die over the text of these rows. One block at a time."""
        self._write(TEXT, rows)
        try:
            yield
        finally:
            self._write(TEXT_END, ())

    def begin(self, rows: Sequence[int]) -> None:
        """From here on the process may die over these rows."""
        self._open.update(rows)
        self._write(BEGIN, rows)

    def keep(self, rows: Sequence[int], packed_NW: Packed) -> None:
        """Store packed states (one row each): nobody needs to run these rows again."""
        self._write(KEEP, rows, packed_NW)

    def end(self, rows: Sequence[int]) -> None:
        """The process is alive after these rows, kept or not. Survives a crash of the machine."""
        self._open.difference_update(rows)
        self._write(END, rows)
        if self._file is not None:
            os.fsync(self._file.fileno())

    def _write(self, kind: int, rows: Sequence[int], packed_NW: Packed | None = None) -> None:
        put_off()
        numbers = np.asarray(rows, "<u4").tobytes()
        body, columns, size = numbers, 0, 0
        if packed_NW is not None:
            body, columns = numbers + packed_NW.tobytes(), packed_NW.shape[1]
            size = packed_NW.dtype.itemsize
        head = HEAD.pack(kind, len(rows), columns, size, zlib.crc32(body))
        left = memoryview(head + body)
        with self._writing:
            if self._file is None:
                return
            try:
                while left:  # a full disk may take a part
                    left = left[self._file.write(left) :]
            except OSError:
                self._file.truncate(self._size)  # nothing can be read after a torn record
                raise
            self._size += len(head) + len(body)


@contextmanager
def tried(
    folder: Path, key: str, owner: str, ended_by_itself: Callable[[str], bool]
) -> Iterator[None]:
    """For work without rows: raises IncompleteError where it ended five processes in a row."""
    with Journal(folder, key, owner, ended_by_itself):
        yield
    discard(folder, key)
