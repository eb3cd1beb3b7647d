"""What the driver sees on disk of items that workers have, while Ray Data runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mads_ray.capture.history import heartbeats
from mads_ray.pipeline.runtime.tasks import Item

log = logging.getLogger(__name__)
_LOOK_S = 2.0
_REPLY_S = 15.0
_TELL_S = 60.0


class StalledError(Exception):
    """Nothing more comes of this execution."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What items leave on disk.

    `committed(item)`: what its work returned, once that is committed. `folder`: where processes
    write their journals; None: they write none. `hang_s`: seconds without a record in a journal
    after which a process ends itself (0: never).
    """

    committed: Callable[[Item], Item | None] = lambda item: None
    folder: Path | None = None
    hang_s: float = 0.0


def beats(folder: Path | None) -> int:
    """A number that changes with every record in any journal."""
    return sum(heartbeats(folder).values()) if folder is not None else 0


class Watch:
    """Tells of workers that hang, and ends an execution that does not get on."""

    def __init__(self, name: str, left: dict[int, Item], traces: Traces) -> None:
        self._name, self._left, self._traces = name, left, traces
        now = time.monotonic()
        self._looked = self._moved = self._told = self._open = now
        self._beats: dict[str, int] = {}
        self._beat_at: dict[str, float] = {}
        self._left_at = len(left)

    def look(self) -> None:
        """Every 2 s: look at the disk. Raises StalledError."""
        now = time.monotonic()
        if self._traces.folder is None or now - self._looked < _LOOK_S:
            return
        self._looked = now
        self._tell_of_hangs(now)
        journals = bool(self._beats)
        if len(self._left) != self._left_at:
            self._left_at, self._moved = len(self._left), now
        items = list(self._left.values())  # the driver's thread takes some away
        if any(self._traces.committed(item) is None for item in items):
            self._open = now
        elif now - self._open > _REPLY_S:
            raise StalledError("the work is committed, but its answers do not come")
        if not journals and now - max(self._moved, self._told) > _TELL_S:
            self._told = now
            log.info("%s: workers wait for room on the cluster, or load the model", self._name)
        patience_s = 2 * self._traces.hang_s
        if journals and 0 < patience_s < now - self._moved:
            raise StalledError(f"nothing moved for {patience_s:.0f} s")

    def _tell_of_hangs(self, now: float) -> None:
        assert self._traces.folder is not None
        found, hang_s = heartbeats(self._traces.folder), self._traces.hang_s
        if found != self._beats:
            self._moved = now
        for key, beat in found.items():
            if self._beats.get(key) != beat:
                self._beat_at[key] = now
            elif 0 < hang_s < now - self._beat_at[key]:
                self._beat_at[key] = now  # tell once
                log.warning(
                    "%s: no batch in %.0f s of %s: its worker ends itself", self._name, hang_s, key
                )
        self._beats = found
