"""Progress of a stage: plain lines on the terminal, events in log.jsonl, and metrics."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from mads_ray import runlog
from mads_ray.pipeline.runtime.prometheus import observe

log = logging.getLogger(__name__)


class Progress:
    """Counts rows and tokens of a stage. Prints a line at most every 10 s (3 s on a terminal)."""

    def __init__(self, stage: str, total_rows: int, done_rows: int = 0) -> None:
        self._stage = stage
        self._total = total_rows
        self._resumed = done_rows
        self._rows = self._tokens = self._padded = self._quarantined = 0
        self._at_peak_s = self._device_s = 0.0
        self._started = time.monotonic()
        self._every = 3.0 if sys.stderr.isatty() else 10.0
        self._last = self._last_event = self._started
        if done_rows:
            log.info("%s: %d of %d rows were done before", stage, done_rows, total_rows)
            observe("mads_ray_resumed_rows", done_rows, stage)

    def add(
        self,
        rows: int,
        tokens: int = 0,
        *,
        padded_tokens: int = 0,
        quarantined: int = 0,
        at_peak_s: float = 0.0,
        device_s: float = 0.0,
    ) -> None:
        """Count a finished piece of work.

        `rows` are its rows, of which `quarantined` are in quarantine; `tokens` their tokens, and
        `padded_tokens` the tokens that the model computed. `device_s`: seconds that the device
        took; `at_peak_s`: seconds that it would take at its peak FLOP/s. Both are 0 where the peak
        is not known.
        """
        self._rows += rows
        self._tokens += tokens
        self._padded += padded_tokens
        self._quarantined += quarantined
        self._at_peak_s += at_peak_s
        self._device_s += device_s if at_peak_s else 0.0
        observe("mads_ray_rows", rows, self._stage)
        observe("mads_ray_tokens", tokens, self._stage)
        observe("mads_ray_padded_tokens", padded_tokens, self._stage)
        observe("mads_ray_quarantined_rows", quarantined, self._stage)
        self._gauge()
        now = time.monotonic()
        if self._done >= self._total:
            return  # `close` reports the rest
        if now - self._last >= self._every:
            self._last = now
            log.info(self.line())
        if now - self._last_event >= runlog.PROGRESS_S:
            self._last_event = now
            runlog.write("progress", **self.facts())

    @property
    def _done(self) -> int:
        return self._rows + self._resumed

    def facts(self) -> dict[str, Any]:
        """The summary so far: rates per second since the stage began, shares from 0 to 1."""
        seconds = max(1e-9, time.monotonic() - self._started)
        return {
            "stage": self._stage,
            "rows": self._done,
            "total_rows": self._total,
            "resumed_rows": self._resumed,
            "quarantined_rows": self._quarantined,
            "tokens": self._tokens,
            "rows_per_s": self._rows / seconds,
            "tokens_per_s": self._tokens / seconds,
            "padding_waste": 1 - self._tokens / self._padded if self._padded else None,
            "mfu": self._at_peak_s / self._device_s if self._device_s else None,
            "seconds": seconds,
        }

    def _gauge(self) -> None:
        facts = self.facts()
        share = self._done / self._total if self._total else None
        observe("mads_ray_progress", share, self._stage)
        observe("mads_ray_tokens_per_second", facts["tokens_per_s"], self._stage)
        observe("mads_ray_padding_waste", facts["padding_waste"], self._stage)
        observe("mads_ray_mfu", facts["mfu"], self._stage)

    def line(self) -> str:
        """The summary so far, as a line for people."""
        facts = self.facts()
        parts = [f"{self._stage}: {self._done:,} of {self._total:,} rows"]
        parts.append(f"{facts['rows_per_s']:,.1f} rows/s")
        if self._tokens:
            parts.append(f"{facts['tokens_per_s']:,.0f} tokens/s")
        if facts["mfu"] is not None:
            parts.append(f"{facts['mfu']:.0%} MFU")
        if self._quarantined:
            parts.append(f"{self._quarantined:,} quarantined")
        if self._done < self._total and self._rows:
            left = (self._total - self._done) * facts["seconds"] / self._rows
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def close(self) -> float:
        """Log the final line; return the seconds of the stage."""
        if self._rows:
            log.info(self.line())
        if self._done:
            self._gauge()
            runlog.write("progress", **self.facts())
        return time.monotonic() - self._started


def duration(seconds: float) -> str:
    """1h05m, 4m10s or 12s."""
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"


class Clock:
    """Measures the seconds of each stage, and the seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._stages: dict[str, float] = {}

    def stage(self, name: str) -> Clock:
        """Use as a context: `with clock.stage("capture")`."""
        self._name = name
        return self

    def __enter__(self) -> None:
        self._entered = time.monotonic()
        runlog.write("stage_started", stage=self._name)
        observe("mads_ray_stage", 1, self._name)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        seconds = round(time.monotonic() - self._entered, 2)
        observe("mads_ray_stage", 0, self._name)
        if error is None:  # after an error the event `run_failed` follows
            self._stages[self._name] = seconds
            runlog.write("stage_finished", stage=self._name, seconds=seconds)

    def timings(self) -> dict[str, float]:
        """Seconds of the stages so far, and `total`."""
        return {**self._stages, "total": round(time.monotonic() - self._started, 2)}
