"""Rounds of a selection on disk: a selection that is interrupted goes on after its last round.

After a round every worker writes the depths of its rows, and the driver writes its sums. Then
`state.json` makes both count. Two states are kept: that of the finished core set, and that of the
smaller set under way that ranks it. The name of the folder is a digest of all that the rounds
depend on, so another selection does not find them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mads_ray.errors import DamagedFileError
from mads_ray.pipeline.select.state import ExchangeState
from mads_ray.pipeline.select.workers import SelectionWorkers
from mads_ray.storage import write_json, write_npz
from mads_ray.stored.arrays import read_npz
from mads_ray.stored.records import read_marker
from mads_ray.submodular.problem import Budget
from mads_ray.submodular.totals import Totals

log = logging.getLogger(__name__)

_FORMAT = 1  # of what is stored, and of the steps that a round takes: raise it when they change
_SUMS = "sums.npz"


class Checkpoint:
    """Stored rounds of one selection. Without a folder nothing is stored."""

    def __init__(self, folder: Path | None = None, *about: Any) -> None:
        """`about`: arrays, bytes and whatever JSON can tell of what the rounds depend on."""
        self._folder = None if folder is None else folder / _digest((_FORMAT, *about))
        self._stored: list[dict[str, Any]] = []
        if self._folder is not None:
            self._stored = _whole_rounds(self._folder)

    def save(self, state: ExchangeState, workers: SelectionWorkers) -> None:
        """Store a state after a round, with the depths that the workers have.

        It replaces what was stored of this set, or of a smaller set than the last. Where storing
        fails, what was stored before stays.
        """
        if self._folder is None:
            return
        try:
            self._save(self._folder, state, workers)
        except OSError as e:  # a full disk, a file server that restarts: no reason to end
            log.warning("select: round %d is not kept: %s", state.rounds, e)

    def _save(self, folder: Path, state: ExchangeState, workers: SelectionWorkers) -> None:
        totals, name = state.totals, f"{state.depth:02d}-{state.rounds:03d}"
        files = workers.ask("save", state.depth, folder / name)
        for failure in (f for f in files if isinstance(f, OSError)):
            raise failure
        write_npz(
            folder / name / _SUMS,
            counts_D=totals.counts_D,
            used_G=totals.used_G,
            low_G=state.low_G,
        )
        plain = {
            "name": name,
            "level": state.depth,
            "budget": {"rows": state.budget.rows, "tokens": state.budget.tokens},
            "bonus": totals.bonus,
            "rows": totals.rows,
            "tokens": totals.tokens,
            "f": totals.f,
            "files": [_SUMS, *files],
            "left": state.left,
            "waves": state.waves,
            "rounds": state.rounds,
            "started": state.started,
            "bound": state.bound,
        }
        outer = [s for s in self._stored if s["level"] == 0 < state.depth]
        stored = [*outer, plain]
        write_json(folder / "state.json", stored)
        self._stored = stored
        names = {s["name"] for s in stored}
        for old in folder.iterdir():
            if old.is_dir() and old.name not in names:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, workers: SelectionWorkers) -> ExchangeState | None:
        """State of the core set, with the depths in the workers; None where none is stored."""
        return self._restored(self._stored[0], workers) if self._stored else None

    def restore_inner(self, workers: SelectionWorkers) -> ExchangeState | None:
        """The same of the smaller set under way. Narrow the workers to the core set before."""
        return self._restored(self._stored[1], workers) if len(self._stored) > 1 else None

    def _restored(self, plain: dict[str, Any], workers: SelectionWorkers) -> ExchangeState:
        assert self._folder is not None
        folder, depth = self._folder / plain["name"], plain["level"]
        with np.load(folder / _SUMS, allow_pickle=False) as sums:
            counts_D, used_G, low_G = (sums[k] for k in ("counts_D", "used_G", "low_G"))
        workers.ask("restore", depth, [folder / f for f in plain["files"] if f != _SUMS])
        log.info("select: goes on after round %d, set %d", plain["rounds"], depth)
        return ExchangeState(
            depth,
            Budget(**plain["budget"]),
            low_G,
            Totals(counts_D, used_G, *(plain[k] for k in ("bonus", "rows", "tokens", "f"))),
            plain["left"],
            plain["waves"],
            plain["rounds"],
            plain["started"],
            plain["bound"],
        )


@dataclass(frozen=True, slots=True)
class _StoredRound:
    """What `state.json` has of each set: see `Checkpoint._save`."""

    name: str
    level: int
    budget: dict[str, Any]
    bonus: int
    rows: int
    tokens: int
    f: int
    files: tuple[str, ...]
    left: list[Any]
    waves: int
    rounds: int
    started: int
    bound: int | None


def _whole_rounds(folder: Path) -> list[dict[str, Any]]:
    """The rounds in a folder; none where a file of them is gone, torn or foreign."""
    stored = read_marker(folder / "state.json", tuple[_StoredRound, ...]) or ()
    try:
        for each in stored:
            for name in each.files:  # to the end: each array has its checksum
                read_npz(folder / each.name / name, "the selection starts again", {})
    except DamagedFileError as e:
        log.warning("select: %s", e)
        return []
    return [asdict(s) | {"files": list(s.files)} for s in stored]


def stored_rounds(folder: Path | None) -> list[Any]:
    """What is stored in a folder, of whatever selections: it changes with every round."""
    if folder is None:
        return []
    return [read_marker(f, list) for f in sorted(folder.rglob("state.json"))]


def _digest(about: tuple[Any, ...]) -> str:
    found = hashlib.sha256()
    for part in about:
        if isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part).tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True).encode()
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:16]
