"""Prepare a grid of fine-tunes: hold rows out, capture, select core sets, write grid.yaml.

`mads_ray.finetune` runs the grid. Both read all rows into memory: this is for pools that are small
enough to fine-tune on many times, not for large corpora.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mads_ray.config import CaptureConfig, CorpusConfig, Method, RunConfig, SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.finetune.config import GridConfig, build
from mads_ray.finetune.data import read, split
from mads_ray.paths import absolute
from mads_ray.pipeline.run import capture_states, select
from mads_ray.storage import write_text

_PARTS = ("pool", "held_out")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compare. `budgets` are shares of the pool; `steps` and `epochs` are the two regimes.

    `held_out`: the share of the rows that is held out where no held-out rows are given. `tasks`: a
    folder of task files, with at most `limit` questions of each. `generate`: tasks with written
    answers (gsm8k, ifeval).
    """

    budgets: tuple[float, ...] = (0.05, 0.15)
    methods: tuple[Method, ...] = ("mads", "random", "length-matched-random")
    seeds: tuple[int, ...] = (0, 1, 2)
    models: tuple[str, ...] = ("smollm2-135m",)
    steps: int | None = 200
    epochs: float | None = 3
    full: bool = True
    max_tokens: int = 1024
    held_out: float = 0.1
    tasks: str | None = None
    limit: int | None = 300
    generate: tuple[str, ...] = ()


def prepare(
    pool: Sequence[str],
    output: str | Path,
    plan: Plan,
    held_out: Sequence[str] = (),
    captured: CaptureConfig | None = None,
    label_field: str | None = None,
) -> Path:
    """Write OUTPUT/grid.yaml and the uids of its arms, arms/METHOD-BUDGET-SEED.txt.

    Returns the grid's path.

    Without `held_out`, a share of the pool's rows is held out, by the hash of each. Each seed
    selects each arm anew. Our core set changes too, because its clustering does. So intervals over
    seeds include the variance of the selection. A second call with the same settings does what is
    left.

    Raises ConfigError where held-out rows are in the pool or OUTPUT holds another grid, and all
    that `capture_states` and `select` raise.
    """
    root = Path(output).absolute()
    if held_out:
        pool, held_out = [absolute(p) for p in pool], [absolute(p) for p in held_out]
        _require_apart(pool, held_out)
        parts: dict[str, str] = {}
    else:
        parts = _hold_out(pool, plan.held_out, label_field)
        pool, held_out = ([str(root / f"{name}.jsonl")] for name in _PARTS)
        label_field = label_field and "label"
    grid = _grid(plan, root, pool, held_out, label_field)
    parts["grid.yaml"] = yaml.safe_dump(grid, sort_keys=False)
    for name, text in parts.items():
        file = root / name
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise ConfigError(f"{file} is of other settings or rows: choose another output")
    for name, text in parts.items():
        if not (root / name).exists():
            write_text(root / name, text)
    source = RunConfig(
        input=tuple(pool),
        output=str(root / "run"),
        corpus=CorpusConfig(label_field=label_field),
        capture=captured or CaptureConfig(),
    )
    capture_states(source)
    for arm, (method, budget) in _arms(plan).items():
        for seed in plan.seeds:
            target = RunConfig(
                output=str(root / "arms" / f"{arm}-{seed}"),
                seed=seed,
                selection=SelectionConfig(method=method, fraction=budget),
            )
            table = select(target, source.output).selection()
            uids = table.filter(table["rank"].is_valid()).sort_by("rank").column("uid")
            text = "\n".join(uids.to_pylist()) + "\n"
            write_text(root / "arms" / f"{arm}-{seed}.txt", text)
    return root / "grid.yaml"


def _arms(plan: Plan) -> dict[str, tuple[Method, float]]:
    """Method and budget by the name of the arm, such as mads-15."""
    return {
        f"{method}-{100 * budget:g}".replace(".", "_"): (method, budget)
        for budget in plan.budgets
        for method in plan.methods
    }


def _grid(
    plan: Plan, root: Path, pool: Sequence[str], held_out: Sequence[str], label_field: str | None
) -> dict[str, Any]:
    """The content of grid.yaml. Raises ConfigError for settings that the grid would refuse."""
    if not plan.budgets or not plan.methods:
        raise ConfigError("name at least one budget and method")
    if not all(0 < share < 1 for share in (*plan.budgets, plan.held_out)):
        raise ConfigError("budgets and the held-out share are between 0 and 1")
    arms: dict[str, str | None] = {
        arm: str(root / "arms" / f"{arm}-{{seed}}.txt") for arm in _arms(plan)
    }
    regimes: list[dict[str, str | float]] = []
    if plan.steps:
        regimes.append({"name": "equal_steps", "steps": plan.steps})
    if plan.epochs:
        regimes.append({"name": "equal_epochs", "epochs": plan.epochs})
    grid = {
        "output": str(root / "grid"),
        "pool": list(pool),
        "held_out": list(held_out),
        "models": list(plan.models),
        "arms": arms | ({"full": None} if plan.full else {}),
        "reference": "random",
        "regimes": regimes,
        "seeds": list(plan.seeds),
        "label_field": label_field,
        "training": {"max_tokens": plan.max_tokens},
        "evaluation": {
            "folder": absolute(plan.tasks) if plan.tasks else None,
            "limit": plan.limit,
            "generate": list(plan.generate),
        },
    }
    build(GridConfig, grid)
    return grid


def _hold_out(patterns: Sequence[str], share: float, label_field: str | None) -> dict[str, str]:
    """By name, the texts of two files: the rows to select from, and the rows held out."""
    rows, _ = read(patterns, label_field)
    texts = {}
    for name, part in zip(_PARTS, split(rows, share), strict=True):
        if not part:
            raise ConfigError(f"{', '.join(patterns)}: {len(rows)} rows leave none for the {name}")
        plain = (r.conversation.to_row() | {"label": r.label} for r in part)
        texts[f"{name}.jsonl"] = "\n".join(json.dumps(row) for row in plain) + "\n"
    return texts


def _require_apart(pool: Sequence[str], held_out: Sequence[str]) -> None:
    """Raise ConfigError before the long work: the grid refuses held-out rows in an arm."""
    secret = {r.uid for r in read(held_out)[0]}
    shared = sum(r.uid in secret for r in read(pool)[0])
    if not secret or shared:
        what = f"{shared} of its rows are in the pool too" if secret else "there is no row in it"
        raise ConfigError(f"held-out rows {', '.join(held_out)}: {what}")
