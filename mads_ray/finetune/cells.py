"""The cells of a grid: what each depends on, its file, and their order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mads_ray.errors import ConfigError
from mads_ray.finetune.config import UNTUNED, GridConfig, Regime
from mads_ray.finetune.data import Row, read
from mads_ray.hashing import checksum
from mads_ray.storage import read_json

_VERSION = 1  # of the content of a cell's file and of its measurement


@dataclass(frozen=True, slots=True)
class Cell:
    """One fine-tune and its evaluation. `regime` and `seed` are None for the untuned model."""

    model: str
    arm: str
    regime: Regime | None
    seed: int | None
    id: str

    @property
    def name(self) -> str:
        """The name for people. The name of its file starts with it."""
        parts = [Path(self.model).name, self.arm]
        if self.regime is not None:
            parts += [self.regime.name, f"s{self.seed}"]
        return ".".join(parts)

    def file(self, output: str | Path) -> Path:
        """The file of its result."""
        return Path(output) / "cells" / f"{self.name}.{self.id}.json"


@dataclass(frozen=True, slots=True)
class Corpora:
    """The held-out rows, and the rows of every arm by (arm, seed)."""

    held_out: tuple[Row, ...]
    arms: Mapping[tuple[str, int], tuple[Row, ...]]


def read_corpora(config: GridConfig) -> Corpora:
    """Read each file once. Raises ConfigError for an arm with held-out rows or unknown uids."""
    pool = tuple(read(config.pool, config.label_field, config.fields, config.text_only)[0])
    held_out = tuple(read(config.held_out, config.label_field, config.fields, config.text_only)[0])
    if not held_out:
        raise ConfigError("held_out: there is no row in it")
    by_uid, secret = {r.uid: r for r in pool}, {r.uid for r in held_out}
    files: dict[str | None, tuple[Row, ...]] = {None: pool}
    arms = {}
    for arm in config.arms:
        for seed in config.seeds:
            file = config.file_of(arm, seed)
            if file not in files:
                assert file is not None
                files[file] = _rows_of(file, by_uid, config)
            rows = arms[arm, seed] = files[file]
            leaked = sum(r.uid in secret for r in rows)
            if leaked or not rows:
                what = f"{leaked} held-out rows are in it" if rows else "there is no row in it"
                raise ConfigError(f"arms.{arm}: {what}")
    return Corpora(held_out, arms)


def _rows_of(file: str, by_uid: Mapping[str, Row], config: GridConfig) -> tuple[Row, ...]:
    if not file.endswith(".txt"):
        return tuple(read([file], config.label_field, config.fields, config.text_only)[0])
    try:
        uids = list(dict.fromkeys(Path(file).read_text(encoding="utf-8").split()))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read the uids of {file}: {e}") from e
    unknown = [u for u in uids if u not in by_uid]
    if unknown:
        raise ConfigError(f"{file}: {len(unknown)} uids are not in the pool, e.g. {unknown[0]}")
    return tuple(by_uid[u] for u in uids)


def cells_of(
    config: GridConfig,
    corpora: Corpora,
    revisions: Mapping[str, str],
    questions: str,
    prompts: str | None = None,
) -> list[Cell]:
    """All cells in order: untuned models first, then seed by seed.

    So the cells up to the end of any seed are a balanced comparison. `revisions` identifies each
    model's weights, `questions` the task questions and `prompts` the prompts for written answers: a
    cell's id depends on all that its result depends on.
    """
    t, e = config.training, config.evaluation
    shared: dict[str, Any] = {
        "version": _VERSION,
        "bf16": t.bf16,  # as set, not as found: any machine may make the table
        "questions": questions,
        "question_tokens": e.max_tokens,
        "held_out": checksum(r.uid for r in corpora.held_out),
        "labels": _digest(sorted((r.uid, r.label) for r in corpora.held_out)),
        "max_tokens": t.max_tokens,
    }
    if prompts is not None:
        shared |= {"prompts": prompts, "max_new_tokens": e.max_new_tokens}

    def cell(model: str, arm: str, regime: Regime | None, seed: int | None) -> Cell:
        what: dict[str, Any] = {**shared, "model": revisions[model], "arm": arm}
        if regime is not None and seed is not None:
            what["rows"] = checksum(r.uid for r in corpora.arms[arm, seed])
            what["regime"] = regime.name
            what["plan"] = plan = dataclasses.asdict(config.plan(regime, False))
            del plan["batch_tokens"]  # changes rounding and memory, nothing else
            plan["micro_batch_tokens"] = None  # its former name, in the ids of stored cells
            what["seed"] = seed
        return Cell(model, arm, regime, seed, _digest(what)[:12])

    untuned = [cell(m, UNTUNED, None, None) for m in config.models]
    return untuned + [
        cell(model, arm, regime, seed)
        for seed in config.seeds
        for model in config.models
        for regime in config.regimes
        for arm in config.arms
    ]


def results_of(cells: Sequence[Cell], output: str | Path) -> dict[str, dict[str, Any]]:
    """The results of the cells that are done, by id."""
    found = {cell.id: read_json(cell.file(output)) for cell in cells}
    return {i: r for i, r in found.items() if r is not None}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
