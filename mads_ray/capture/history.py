"""What earlier processes did with a piece of work, as their journals tell.

A file may end in a torn record, which is ignored. Only a process that died or hung over its rows
counts against them: who takes over says which did, and records it. A process that was stopped, or
that was lost with its node or its driver, was not ended by its rows.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.errors import RowError

Packed = npt.NDArray[Any]
SUFFIX, _DEATHS_SUFFIX, _TAKEN_SUFFIX = ".journal", ".deaths", ".taken"
BEGIN, KEEP, END, TEXT, TEXT_END, CLOSED = 1, 2, 3, 4, 5, 6
HEAD = struct.Struct("<IIIII")  # kind, rows, columns, bytes a value, CRC of what follows
# A row that only was at hand when machines were taken away has not so many.
_DEATHS, _ALONE = 4, 2


@dataclass(slots=True)
class History:
    """What earlier processes did with a piece of work.

    `kept`: packed states by row. `ended`: rows after which a process was still alive. `deaths`: by
    row, the processes that died while they ran it; `alone`: those of them that ran no other row.
    `text_deaths`, `text_alone`: the same while they rendered and tokenised its text. `begun`: how
    often a row was begun. `processes`: how many processes had the work. `fruitless`: how many of
    this job died over it since one of them made progress. `lost`: owners that did not tell an end.
    """

    kept: dict[int, Packed] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)
    alone: Counter[int] = field(default_factory=Counter)
    text_deaths: Counter[int] = field(default_factory=Counter)
    text_alone: Counter[int] = field(default_factory=Counter)
    begun: Counter[int] = field(default_factory=Counter)
    processes: int = 0
    fruitless: int = 0
    lost: list[str] = field(default_factory=list)

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


def read_history(folder: Path, key: str, job: str = "") -> History:
    """Read the files of all processes that had this work, in the order in which they took it.

    `job`: whose processes count as `fruitless`.
    """
    history = History()
    dead = _recorded_deaths(folder, key)
    for path in sorted(folder.glob(f"{key}.*{SUFFIX}")):
        history.processes += 1
        before, closed = history.settled, False
        running: dict[int, bool] = {}  # row: whether alone
        reading: Sequence[int] = ()
        for kind, rows, packed_NW in _records(path):
            if kind == BEGIN:
                history.begun.update(rows)
                running.update(dict.fromkeys(rows, len(rows) == 1))
            elif kind == END:
                history.ended.update(rows)
                for row in rows:
                    running.pop(row, None)
            elif kind == KEEP:
                history.kept.update(zip(rows, packed_NW, strict=True))
            else:
                reading = rows if kind == TEXT else ()
                closed = kind == CLOSED
        if not closed:
            history.lost.append(_owner(path))
        died = path.name in dead and not closed
        if died:
            for row, alone in running.items():
                history.deaths[row] += 1
                history.alone[row] += alone
            history.text_deaths.update(reading)
            history.text_alone.update(reading if len(reading) == 1 else ())
        if history.settled > before:
            history.fruitless = 0
        elif died and _owner(path).partition("-")[0] == job:
            history.fruitless += 1
    return history


def _owner(path: Path) -> str:
    return path.name.split(".")[-3]


def record_deaths(folder: Path, key: str, ended_by_itself: Callable[[str], bool]) -> None:
    """Note which of the processes that had this work died over it, or hung."""
    known = _recorded_deaths(folder, key)
    found = [p.name for p in sorted(folder.glob(f"{key}.*{SUFFIX}")) if p.name not in known]
    dead = [name for name in found if ended_by_itself(_owner(Path(name)))]
    if dead:
        with (folder / f"{key}{_DEATHS_SUFFIX}").open("a", encoding="utf-8") as f:
            f.writelines(f"{name}\n" for name in dead)


def _recorded_deaths(folder: Path, key: str) -> set[str]:
    try:
        return set((folder / f"{key}{_DEATHS_SUFFIX}").read_text(encoding="utf-8").split())
    except FileNotFoundError:
        return set()


def take_orphans(folder: Path, is_lost: Callable[[str], bool]) -> Iterator[str]:
    """Keys of work whose last process `is_lost` (by its owner) and did not end it.

    Of several processes that ask, one gets a key.
    """
    last: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        last[path.name.split(".")[0]] = path
    for key, path in last.items():
        if is_lost(_owner(path)) and not any(kind == CLOSED for kind, _, _ in _records(path)):
            try:
                path.with_suffix(_TAKEN_SUFFIX).touch(exist_ok=False)
            except FileExistsError:
                continue
            yield key


def discard(folder: Path, key: str) -> None:
    """Remove the journals of work that is committed."""
    taken = folder.glob(f"{key}.*{_TAKEN_SUFFIX}")
    for path in [*folder.glob(f"{key}.*{SUFFIX}"), *taken, folder / f"{key}{_DEATHS_SUFFIX}"]:
        path.unlink(missing_ok=True)


def heartbeats(folder: Path) -> dict[str, int]:
    """For each piece of work, by its key, a number that grows with every record in its journals."""
    total: Counter[str] = Counter()
    for path in folder.glob(f"*{SUFFIX}"):
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
    while at + HEAD.size <= len(data):
        kind, n, columns, size, crc = HEAD.unpack_from(data, at)
        start = at + HEAD.size
        at = start + 4 * n + n * columns * size
        body = data[start:at]
        if at > len(data) or zlib.crc32(body) != crc:
            return
        rows = np.frombuffer(body, "<u4", n).tolist()
        packed_NW = np.frombuffer(body, f"<i{size or 1}", n * columns, 4 * n).reshape(n, columns)
        yield kind, rows, packed_NW
