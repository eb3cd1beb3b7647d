"""The run log: what happened in a run folder, one JSON object a line of `log.jsonl`.

Every line has `time` (UTC), `run` (one id a process and run) and `event`. Lines are only appended,
each in one write, so a kill tears the last line at most; a resumed run continues the file. The log
tells of a run and never decides on one: where it cannot be written, the run goes on.
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
                self._failed = True  # first: this warning is an event as well
                log.warning("the run log %s cannot be written: %s", self._path, e)

    def _append(self, line: bytes) -> None:
        # Opened for each line: others see it at once on a network file system, too, and a file that
        # was removed meanwhile is made again.
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line  # a kill or a full disk tore the line before
            os.write(file, line)
        finally:
            os.close(file)


class _Warnings(logging.Handler):
    """Warnings of the package are events."""

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
    """Let `write` append to this file, from `run_started` with these fields on.

    An exception becomes `run_failed`, also that of a signal, and goes on. The caller writes
    `run_finished`, with what it knows.
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
    """Append an event to the log of the run under way, if there is one."""
    if _current is not None:
        _current.write(event, fields)


def read_log(path: Path) -> list[dict[str, Any]]:
    """All events in order; lines that a kill tore are left out."""
    events = []
    for line in path.read_bytes().split(b"\n"):
        try:
            event = json.loads(line)
        except ValueError:  # also bytes that are no UTF-8
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _plain(value: Any) -> Any:
    """As JSON has it: no NaN, numbers to six decimals, everything unknown as text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def command_line() -> str:
    """The command of this process, as a shell takes it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
