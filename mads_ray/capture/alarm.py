"""Ends this process when it stands still, whatever its threads do, so that Ray starts another.

On Linux a timer of the kernel sends SIGKILL: it needs no thread of ours and no GIL, and it reaches
a process that was stopped. A moment before, the worker's log gets the stacks of all threads.
Elsewhere faulthandler ends the process, unless it was stopped.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import IO, Any

_MONOTONIC, _BY_SIGNAL = 1, 0
_STACKS_AT = 0.9  # of the time


class _SigEvent(ctypes.Structure):
    """`struct sigevent` of Linux (timer_create(2))."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_int * 12),
    )


class _Timer:
    """A timer of the kernel that kills this process."""

    def __init__(self) -> None:
        self._id = ctypes.c_void_p()
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        event = _SigEvent(None, signal.SIGKILL, _BY_SIGNAL)
        if self._libc.timer_create(_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)):
            raise OSError(ctypes.get_errno(), "timer_create")

    def set(self, after_s: float) -> None:
        """Kill after so many seconds from now; 0: never."""
        times = (ctypes.c_long * 4)(0, 0, int(after_s), int(after_s % 1 * 1e9))
        self._libc.timer_settime(self._id, 0, times, None)


_timer: _Timer | None = None
_after_s = 0.0
_blocks = 0
_changing = Lock()


@contextmanager
def alarmed(after_s: float) -> Iterator[None]:
    """In this block the process ends unless `put_off` is called at least every `after_s` seconds.

    0: no alarm. Threads may have blocks at once; the time is that of the block begun last.
    """
    global _blocks
    if not after_s:
        yield
        return
    with _changing:
        _blocks += 1
        _begin(after_s)
    try:
        yield
    finally:
        with _changing:
            _blocks -= 1
            if not _blocks:
                _stop()


def _begin(after_s: float) -> None:
    global _timer, _after_s
    if _timer is None and sys.platform.startswith("linux"):
        _timer = _Timer()
    _after_s = after_s
    put_off()


def _stop() -> None:
    global _after_s
    _after_s = 0.0
    if _timer is not None:
        _timer.set(0.0)
    faulthandler.cancel_dump_traceback_later()


def put_off() -> None:
    """This process makes progress. Takes some 40 microseconds in an `alarmed` block."""
    if not _after_s:
        return
    stderr: IO[str] | None = sys.__stderr__
    if _timer is not None:
        _timer.set(_after_s)
        if stderr is not None:
            faulthandler.dump_traceback_later(_STACKS_AT * _after_s, file=stderr)
    elif stderr is not None:
        faulthandler.dump_traceback_later(_after_s, exit=True, file=stderr)
