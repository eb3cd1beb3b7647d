"""What a process writes down about a piece of work, so that the next process can continue it.

A piece of work is a shard, or a group of the calibration sample; rows are numbers within it. Every
process that takes it appends to a file of its own:

- the rows whose text it is about to render and tokenise,
- the rows it is about to run through the model,
- the states of rows that are done,
- the rows after which it was still alive.

A process that takes over after a death reads all these files. It keeps the states, runs the same
batches except those that are done, and knows which rows were being worked on when a process died. A
file may end in a torn record, which is ignored.

Only a death that someone recorded (`record_death`) counts against rows. A process that was stopped,
or that was lost with its node or its driver, was not ended by its rows.
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
_SUFFIX, _DEATHS_SUFFIX = ".journal", ".deaths"
_BEGIN, _KEEP, _END, _TEXT, _TEXT_END = 1, 2, 3, 4, 5
_HEAD = struct.Struct("<IIIII")  # kind, rows, columns, bytes a value, CRC of what follows
# A row that only was at hand when machines were taken away has not so many.
_DEATHS, _ALONE = 4, 2


@dataclass(slots=True)
class History:
    """What earlier processes did with a piece of work.

    `kept`: packed states by row. `ended`: rows after which a process was still alive. `deaths`: by
    row, the processes that died while they ran it; `alone`: those of them that ran no other row.
    `text_deaths`, `text_alone`: the same while they rendered and tokenised its text. `begun`: how
    often a row was begun. `processes`: how many processes had the work.
    """

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
        """Rows that nobody tries again, with the reason."""
        return self._deadly_to_run | self.unreadable

    @property
    def unreadable(self) -> dict[int, RowError]:
        """Rows whose text must not be tokenised again, with the reason."""
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
        """Whether a process died over a row. The next one must show which row it was."""
        return bool(self.deaths or self.text_deaths)

    @property
    def settled(self) -> int:
        """A number that grows as long as processes make progress."""
        return len(self.ended) + len(self.poison)

    @property
    def repeated(self) -> int:
        """How often a row was begun again, also where it was only tried alone."""
        return sum(n - 1 for n in self.begun.values())


class Journal:
    """This process's file about a piece of work, and the `history` of the processes before it.

    `key` names the work, `owner` the process. Without a folder nothing is written, and the history
    is empty. An exception that leaves the `with` block is no death: the process reports it.
    """

    def __init__(self, folder: Path | None = None, key: str = "", owner: str = "") -> None:
        self.history = History()
        self._file: BinaryIO | None = None
        self._open: set[int] = set()
        self._size = 0
        self._writing = Lock()  # a thread of its own tokenises
        if folder is not None:
            self.history = read_history(folder, key)
            name = f"{key}.{self.history.processes:04d}.{owner}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
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
        self._write(_TEXT, rows)
        try:
            yield
        finally:
            self._write(_TEXT_END, ())

    def begin(self, rows: Sequence[int]) -> None:
        """From here on the process may die over these rows."""
        self._open.update(rows)
        self._write(_BEGIN, rows)

    def keep(self, rows: Sequence[int], packed_NW: Packed) -> None:
        """Store packed states (one row each): nobody needs to run these rows again."""
        self._write(_KEEP, rows, packed_NW)

    def end(self, rows: Sequence[int]) -> None:
        """The process is alive after these rows, kept or not. Survives a crash of the machine."""
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


def read_history(folder: Path, key: str) -> History:
    """Read the files of all processes that had this work, in the order in which they took it."""
    history = History()
    dead = _recorded_deaths(folder, key)
    for path in sorted(folder.glob(f"{key}.*{_SUFFIX}")):
        history.processes += 1
        running: dict[int, bool] = {}  # row: whether alone
        reading: Sequence[int] = ()
        for kind, rows, packed_NW in _records(path):
            if kind == _BEGIN:
                history.begun.update(rows)
                running.update(dict.fromkeys(rows, len(rows) == 1))
            elif kind == _END:
                history.ended.update(rows)
                for row in rows:
                    running.pop(row, None)
            elif kind == _KEEP:
                history.kept.update(zip(rows, packed_NW, strict=True))
            else:
                reading = rows if kind == _TEXT else ()
        if path.name not in dead:
            continue
        for row, alone in running.items():
            history.deaths[row] += 1
            history.alone[row] += alone
        history.text_deaths.update(reading)
        history.text_alone.update(reading if len(reading) == 1 else ())
    return history


def record_death(folder: Path, key: str) -> None:
    """Note that the process which had this work last died by itself, or hung."""
    files = sorted(folder.glob(f"{key}.*{_SUFFIX}"))
    if files:
        with (folder / f"{key}{_DEATHS_SUFFIX}").open("a", encoding="utf-8") as f:
            f.write(files[-1].name + "\n")


def _recorded_deaths(folder: Path, key: str) -> set[str]:
    try:
        return set((folder / f"{key}{_DEATHS_SUFFIX}").read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return set()


def discard(folder: Path, key: str) -> None:
    """Remove the journals of work that is committed."""
    for path in [*folder.glob(f"{key}.*{_SUFFIX}"), folder / f"{key}{_DEATHS_SUFFIX}"]:
        path.unlink(missing_ok=True)


def heartbeats(folder: Path) -> dict[str, int]:
    """For each piece of work, by its key, a number that grows with every record in its journals."""
    total: Counter[str] = Counter()
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            total[path.name.split(".")[0]] += 1 + path.stat().st_size
        except FileNotFoundError:  # just committed
            continue
    return total


def _records(path: Path) -> Iterator[tuple[int, list[int], Packed]]:
    """(kind, rows, packed rows) of whole records. States are signed integers, as torch packs."""
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
