"""The run log: what happened in a run folder. `log.jsonl` has one JSON object a line.

Every line has `time` (UTC), `run` (an id of this process and run) and `event`. Lines are only
appended, each in one write, so a kill can tear only the last line. A resumed run continues the
file. The log describes a run and decides nothing: where it cannot be written, the run goes on.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import shlex
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
_PACKAGE = logging.getLogger("mads_ray")  # hears every module, this one too

PROGRESS_S = 10.0  # between two `progress` events of a stage, at least
_LONGEST = 2000  # characters of a message


class RunLog:
    """Appends to one file. No method raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run = uuid.uuid4().hex[:8]
        self._failed = False

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Append one event."""
        now = datetime.datetime.now(datetime.UTC)
        head = {"time": now.isoformat(timespec="milliseconds"), "run": self._run, "event": event}
        line = json.dumps(head | _plain(fields), allow_nan=False).encode() + b"\n"
        try:
            self._append(line)
        except OSError as e:
            if not self._failed:
                self._failed = True  # before the warning, which is an event too
                log.warning("the run log %s cannot be written: %s", self._path, e)

    def _append(self, line: bytes) -> None:
        # Opened for each line: others see the line at once, also on a network file system, and a
        # file that was removed meanwhile is made again.
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line  # a kill or a full disk tore the line before
            os.write(file, line)
        finally:
            os.close(file)


class _Warnings(logging.Handler):
    """Writes each warning of the package as an event."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()[:_LONGEST]
            fields = {"level": record.levelname.lower(), "logger": record.name, "message": message}
        except Exception:
            self.handleError(record)
        else:
            write("warning", **fields)


_current: RunLog | None = None


@contextmanager
def recording(path: Path, **started: Any) -> Iterator[None]:
    """Let `write` append to this file in the block. The first event is `run_started`.

    An exception, also that of a signal, is written as `run_failed` and raised again. The caller
    writes `run_finished`.
    """
    global _current
    before, _current = _current, RunLog(path)
    handler = _Warnings(logging.WARNING)
    _PACKAGE.addHandler(handler)
    try:
        write("run_started", **started)
        yield
    except BaseException as e:
        write("run_failed", error=type(e).__name__, message=str(e)[:_LONGEST])
        raise
    finally:
        _PACKAGE.removeHandler(handler)
        _current = before


def write(event: str, /, **fields: Any) -> None:
    """Append an event to the log of the run that is under way. Without a run do nothing."""
    if _current is not None:
        _current.write(event, fields)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read all events in order. Lines that a kill tore are left out."""
    events = []
    for line in path.read_bytes().split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:  # a torn line, or bytes that are not UTF-8
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _plain(value: Any) -> Any:
    """A value as JSON: no NaN, numbers to six decimals, values of other types as text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a numpy number
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def command_line() -> str:
    """The command of this process, quoted for a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
