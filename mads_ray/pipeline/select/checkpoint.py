"""Rounds of a selection on disk, so that one that is interrupted goes on after its last round.

After a round every holder writes how far the rows of its shards have come, the driver writes its
sums, and `state.json` makes both count. Kept are the finished core set and the smaller set under
way that ranks it. The folder is named by all that the rounds depend on: another selection does not
find them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mads_ray.storage import read_json, write_json, write_npz
from mads_ray.submodular.problem import Budget
from mads_ray.submodular.totals import Totals

if TYPE_CHECKING:
    from mads_ray.pipeline.select.exchange import Exchange

log = logging.getLogger("mads_ray")

_FORMAT = 1  # of what is stored, and of the steps that a round takes: raise it when they change
_SUMS = "sums.npz"
_PLAIN = ("left", "waves", "rounds", "started", "bound")


class Rounds:
    """Stored rounds of one selection. Without a folder nothing is stored."""

    def __init__(self, folder: Path | None = None, *about: Any) -> None:
        """`about`: arrays, bytes and whatever JSON can tell of what the rounds depend on."""
        self._folder = None if folder is None else folder / _digest((_FORMAT, *about))
        self._stored: list[dict[str, Any]] = []
        if self._folder is not None:
            self._stored = read_json(self._folder / "state.json") or []
            files = [self._folder / s["name"] / f for s in self._stored for f in s["files"]]
            if not all(f.exists() for f in files):
                log.warning("select: %s lacks files; starting again", self._folder)
                self._stored = []

    def keep(self, exchange: Exchange) -> None:
        """Store where a level is after a round, in place of what was stored of this level, or of a
        smaller set than the last. Where that fails, what was stored before stays."""
        if self._folder is None:
            return
        try:
            self._keep(self._folder, exchange)
        except OSError as e:  # a full disk, a file server that restarts: no reason to end
            log.warning("select: round %d is not kept: %s", exchange.rounds, e)

    def _keep(self, folder: Path, exchange: Exchange) -> None:
        now = exchange.now
        name = f"{exchange.level:02d}-{exchange.rounds:03d}"
        files = exchange.pool.all("keep", exchange.level, folder / name)
        for failure in (f for f in files if isinstance(f, OSError)):
            raise failure
        write_npz(
            folder / name / _SUMS,
            counts_D=now.counts_D,
            used_G=now.used_G,
            low_G=exchange.problem.bounds.low_G,
        )
        plain = {field: getattr(exchange, field) for field in _PLAIN}
        sums = {field: getattr(now, field) for field in ("bonus", "rows", "tokens", "f")}
        limits = exchange.problem.budget
        budget = {"rows": limits.rows, "tokens": limits.tokens}
        state = {"name": name, "level": exchange.level, "budget": budget, **sums}
        state["files"] = [_SUMS, *files]
        outer = [s for s in self._stored if s["level"] == 0 < exchange.level]
        stored = [*outer, state | plain]
        write_json(folder / "state.json", stored)
        self._stored = stored
        names = {s["name"] for s in stored}
        for old in folder.iterdir():
            if old.is_dir() and old.name not in names:
                shutil.rmtree(old, ignore_errors=True)

    def resume(self, exchange: Exchange) -> Exchange:
        """The core set's own choice where it was stored, in the holders too; else as it is given.

        Later rounds of it must go through the exchange that this returns.
        """
        return self._resumed(exchange, self._stored[0]) if self._stored else exchange

    def resume_inner(self, whole: Exchange) -> Exchange | None:
        """The smaller set under way, or None; holders must have been narrowed to the core set."""
        if len(self._stored) < 2:
            return None
        return self._resumed(whole.within(), self._stored[1])

    def _resumed(self, exchange: Exchange, state: dict[str, Any]) -> Exchange:
        assert self._folder is not None
        folder, level = self._folder / state["name"], state["level"]
        with np.load(folder / _SUMS, allow_pickle=False) as sums:
            counts_D, used_G, low_G = (sums[k] for k in ("counts_D", "used_G", "low_G"))
        files = [folder / f for f in state["files"] if f != _SUMS]
        exchange.pool.all("recall", level, files)
        log.info("select: goes on after round %d, set %d", state["rounds"], level)
        return replace(
            exchange,
            level=level,
            problem=replace(
                exchange.problem,
                budget=Budget(**state["budget"]),
                bounds=replace(exchange.problem.bounds, low_G=low_G),
            ),
            now=Totals(counts_D, used_G, *(state[k] for k in ("bonus", "rows", "tokens", "f"))),
            **{field: state[field] for field in _PLAIN},
        )


def kept_rounds(folder: Path | None) -> list[Any]:
    """What is kept in a folder, of whatever selections: it changes with every round."""
    if folder is None:
        return []
    return [read_json(f) for f in sorted(folder.rglob("state.json"))]


def _digest(about: tuple[Any, ...]) -> str:
    found = hashlib.sha256()
    for part in about:
        if isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part).tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True).encode()
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:16]
