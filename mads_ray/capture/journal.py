"""What processes leave behind about a piece of work, so that the next one goes on and not over.

Every process that takes a shard appends to a file of its own: the rows whose text it renders and
tokenises, the rows it begins to run, the states it keeps, the rows it is done with. Whoever takes
the shard after a death keeps the states, runs the same batches but those that are done, and knows
which rows were at hand when a process died. Rows are numbers within the shard. A file may end in a
torn record, which does not count.

Only deaths that someone saw (`witness`) speak against rows: a process that was stopped, or went
with its node or its driver, was not ended by its rows.
"""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from mads_ray.errors import RowError

Packed = npt.NDArray[Any]
_SUFFIX, _DEATHS_SUFFIX = ".attempt", ".deaths"
_BEGIN, _KEEP, _END, _TEXT, _TEXT_END = 1, 2, 3, 4, 5
_HEAD = struct.Struct("<IIIII")  # kind, rows, columns, bytes a value, CRC of what follows
# A row that only was at hand when machines were taken away has not so many.
_DEATHS, _ALONE = 4, 2


@dataclass(slots=True)
class Past:
    """What earlier processes did. `kept`: packed states by row; `ended`: rows that a process lived
    on after; `deaths`: processes that ended while they ran a row, `alone`: and no other row with
    it; `text_deaths`, `text_alone`: while they made tokens of its text; `begun`: how often a row
    was begun."""

    kept: dict[int, Packed] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)
    alone: Counter[int] = field(default_factory=Counter)
    text_deaths: Counter[int] = field(default_factory=Counter)
    text_alone: Counter[int] = field(default_factory=Counter)
    begun: Counter[int] = field(default_factory=Counter)
    processes: int = 0

    @property
    def poison(self) -> dict[int, RowError]:
        """Rows that are given up, with the reason."""
        return self._deadly_to_run | self.unreadable

    @property
    def unreadable(self) -> dict[int, RowError]:
        """Those whose text must not even be made tokens of again."""
        return {
            row: RowError(
                "ends_the_process",
                "",
                f"{n} processes ended or hung while they rendered and tokenised this row, "
                f"{self.text_alone[row]} of them with this row alone",
            )
            for row, n in self.text_deaths.items()
            if n >= _DEATHS and self.text_alone[row] >= _ALONE
        }

    @property
    def _deadly_to_run(self) -> dict[int, RowError]:
        return {
            row: RowError(
                "ends_the_process",
                "",
                f"{n} processes ended while the model ran this row, {self.alone[row]} of them with "
                "this row alone (out of memory, or a fault in the model's kernels)",
            )
            for row, n in self.deaths.items()
            if n >= _DEATHS and self.alone[row] >= _ALONE and row not in self.kept
        }

    @property
    def suspicious(self) -> bool:
        """Whether a process died of some row: it must be clear which one does it next."""
        return bool(self.deaths or self.text_deaths)

    @property
    def settled(self) -> int:
        """Grows as long as processes get on."""
        return len(self.ended) + len(self.poison)

    @property
    def repeated(self) -> int:
        """Times that a row was begun again, if only to be tried alone."""
        return sum(n - 1 for n in self.begun.values())


class Attempt:
    """This process's file about a piece of work, and the past before it.

    Without a folder nothing is written and there is no past. Leaving the block by an exception is
    no death: the process tells what happened.
    """

    def __init__(self, folder: Path | None = None, key: str = "", owner: str = "") -> None:
        self.past = Past()
        self._file: BinaryIO | None = None
        self._open: set[int] = set()
        self._size = 0
        self._writing = Lock()  # text is made tokens of in a thread of its own
        if folder is not None:
            self.past = read_past(folder, key)
            name = f"{key}.{self.past.processes:04d}.{owner}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
            folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what was written outlives this process.
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
        except OSError:
            if kind is None:
                raise  # else the error that is on its way tells more
        finally:
            with self._writing:
                self._file.close()
                self._file = None

    def left(self, rows: Sequence[int]) -> list[int]:
        """Those that earlier processes neither kept nor had to give up."""
        poison = self.past.poison
        return [r for r in rows if r not in self.past.kept and r not in poison]

    def deaths(self, rows: Sequence[int]) -> int:
        """Most deaths of one of these rows."""
        return max((self.past.deaths[r] for r in rows), default=0)

    def deaths_together(self, rows: Sequence[int]) -> int:
        """Most deaths of one of these rows in a batch with others."""
        return max((self.past.deaths[r] - self.past.alone[r] for r in rows), default=0)

    @contextmanager
    def reading(self, rows: Sequence[int]) -> Iterator[None]:
        """In this block the process may die of these rows' text. One block at a time."""
        self._write(_TEXT, rows)
        try:
            yield
        finally:
            self._write(_TEXT_END, ())

    def begin(self, rows: Sequence[int]) -> None:
        """From here on the process may die of these rows."""
        self._open.update(rows)
        self._write(_BEGIN, rows)

    def keep(self, rows: Sequence[int], packed_NW: Packed) -> None:
        """Nobody needs to run these rows again."""
        self._write(_KEEP, rows, packed_NW)

    def end(self, rows: Sequence[int]) -> None:
        """The process lives on after these rows, kept or not. They outlive its machine, too."""
        self._open.difference_update(rows)
        self._write(_END, rows)
        if self._file is not None:
            os.fsync(self._file.fileno())

    def _write(self, kind: int, rows: Sequence[int], packed_NW: Packed | None = None) -> None:
        numbers = np.asarray(rows, "<u4").tobytes()
        body, columns, size = numbers, 0, 0
        if packed_NW is not None:
            body, columns = numbers + packed_NW.tobytes(), packed_NW.shape[1]
            size = packed_NW.dtype.itemsize
        head = _HEAD.pack(kind, len(rows), columns, size, zlib.crc32(body))
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


def read_past(folder: Path, key: str) -> Past:
    """The past of a piece of work, by the files of all processes in the order they came."""
    past = Past()
    seen = _witnessed(folder, key)
    for path in sorted(folder.glob(f"{key}.*{_SUFFIX}")):
        past.processes += 1
        running: dict[int, bool] = {}  # row: whether alone
        reading: Sequence[int] = ()
        for kind, rows, packed_NW in _records(path):
            if kind == _BEGIN:
                past.begun.update(rows)
                running.update(dict.fromkeys(rows, len(rows) == 1))
            elif kind == _END:
                past.ended.update(rows)
                for row in rows:
                    running.pop(row, None)
            elif kind == _KEEP:
                past.kept.update(zip(rows, packed_NW, strict=True))
            else:
                reading = rows if kind == _TEXT else ()
        if path.name not in seen:
            continue
        for row, alone in running.items():
            past.deaths[row] += 1
            past.alone[row] += alone
        past.text_deaths.update(reading)
        past.text_alone.update(reading if len(reading) == 1 else ())
    return past


def witness(folder: Path, key: str) -> None:
    """The process that had this work last has ended by itself, or hung."""
    files = sorted(folder.glob(f"{key}.*{_SUFFIX}"))
    if files:
        with (folder / f"{key}{_DEATHS_SUFFIX}").open("a", encoding="utf-8") as f:
            f.write(files[-1].name + "\n")


def _witnessed(folder: Path, key: str) -> set[str]:
    try:
        return set((folder / f"{key}{_DEATHS_SUFFIX}").read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return set()


def forget(folder: Path, key: str) -> None:
    """Remove the files about a piece of work that is committed."""
    for path in [*folder.glob(f"{key}.*{_SUFFIX}"), folder / f"{key}{_DEATHS_SUFFIX}"]:
        path.unlink(missing_ok=True)


def pulses(folder: Path) -> dict[str, int]:
    """For each piece of work, a number that grows with everything that is written about it."""
    total: Counter[str] = Counter()
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            total[path.name.split(".")[0]] += 1 + path.stat().st_size
        except FileNotFoundError:  # just committed
            continue
    return total


def _records(path: Path) -> Iterator[tuple[int, list[int], Packed]]:
    """Whole records; states as the signed integers that torch packs."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # just committed by another process
        return
    at = 0
    while at + _HEAD.size <= len(data):
        kind, n, columns, size, crc = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        at = start + 4 * n + n * columns * size
        body = data[start:at]
        if at > len(data) or zlib.crc32(body) != crc:
            return
        rows = np.frombuffer(body, "<u4", n).tolist()
        packed_NW = np.frombuffer(body, f"<i{size or 1}", n * columns, 4 * n).reshape(n, columns)
        yield kind, rows, packed_NW
