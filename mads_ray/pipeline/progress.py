"""One plain line of progress now and then: rows/s, tokens/s and the time left."""

from __future__ import annotations

import logging
import sys
import time

log = logging.getLogger("mads_ray")


class Progress:
    """Counts rows and tokens of a stage. A line at most every 10 s (3 s on a terminal)."""

    def __init__(self, stage: str, total_rows: int, done_rows: int = 0) -> None:
        self._stage = stage
        self._total = total_rows
        self._resumed = done_rows
        self._rows = self._tokens = 0
        self._started = time.monotonic()
        self._every = 3.0 if sys.stderr.isatty() else 10.0
        self._last = self._started
        if done_rows:
            log.info("%s: %d of %d rows were done before", stage, done_rows, total_rows)

    def add(self, rows: int, tokens: int = 0) -> None:
        """Report a finished piece."""
        self._rows += rows
        self._tokens += tokens
        now = time.monotonic()
        if now - self._last >= self._every and self._rows + self._resumed < self._total:
            self._last = now
            log.info(self.line())

    def line(self) -> str:
        """The summary so far."""
        seconds = max(1e-9, time.monotonic() - self._started)
        done = self._rows + self._resumed
        parts = [f"{self._stage}: {done:,} of {self._total:,} rows"]
        parts.append(f"{self._rows / seconds:,.1f} rows/s")
        if self._tokens:
            parts.append(f"{self._tokens / seconds:,.0f} tokens/s")
        if done < self._total and self._rows:
            parts.append(f"{duration((self._total - done) * seconds / self._rows)} left")
        return ", ".join(parts)

    def close(self) -> float:
        """Log the final line; return the seconds of the stage."""
        if self._rows:
            log.info(self.line())
        return time.monotonic() - self._started


def duration(seconds: float) -> str:
    """1h05m, 4m10s or 12s."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"
