"""Do the cells of a grid that are not done yet, within a number of minutes.

A cell is one fine-tune and its evaluation. Its result is one file, which is whole or absent. An
interrupted cell starts again, so a cell must fit into the time.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import importlib.metadata
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mads_ray.capture.model import Located, load_tokenizer, most_positions, pick_device
from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.finetune import causal, harness, tasks
from mads_ray.finetune.cells import Cell, Corpora, cells_of, read_corpora, results_of
from mads_ray.finetune.choices import Encoded, average, encode, log_likelihoods, scores
from mads_ray.finetune.config import GridConfig
from mads_ray.finetune.data import Example, tokenise
from mads_ray.finetune.harness import Prompts, Written
from mads_ray.finetune.loss import held_out_loss
from mads_ray.finetune.tasks import Question
from mads_ray.finetune.tune import tune
from mads_ray.storage import write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Names of cells: finished before, finished by this call, and still to do."""

    before: tuple[str, ...]
    done: tuple[str, ...]
    left: tuple[str, ...]


class Grid:
    """A configuration with its rows, questions, models and cells.

    Raises ConfigError, CorpusError or ModelError where one of them cannot be found.
    """

    def __init__(self, config: GridConfig) -> None:
        self.config = config
        self.bf16 = causal.use_bf16(config.training.bf16)
        self.located: dict[str, Located] = {m: causal.find(m) for m in config.models}
        names = [m.identity.revision for m in self.located.values()]
        if len(set(names)) < len(names):
            raise ConfigError("models: two of them are the same")
        revisions = {m: f.identity.revision for m, f in self.located.items()}
        asked = _digest([self.prompts]) if config.evaluation.generate else None
        self.cells = cells_of(config, self.corpora, revisions, _digest(self.questions), asked)

    @cached_property
    def corpora(self) -> Corpora:
        """All rows."""
        return read_corpora(self.config)

    @cached_property
    def questions(self) -> list[Question]:
        """All task questions. None where there is no folder of task files."""
        e = self.config.evaluation
        return tasks.load(e.folder, e.limit, e.tasks) if e.folder else []

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts for written answers. Empty without `generate`."""
        e = self.config.evaluation
        return harness.read_prompts(e.folder or "", e.generate, e.generate_limit)

    def results(self) -> dict[str, dict[str, Any]]:
        """The results so far, by id of the cell."""
        return results_of(self.cells, self.config.output)


class _Tokens:
    """All examples and questions, tokenised once for one model."""

    def __init__(self, grid: Grid, model: str) -> None:
        located, config = grid.located[model], grid.config
        self._tokenizer = load_tokenizer(located)
        longest = most_positions(located, config.training.max_tokens)
        self._renderer = PromptRenderer(self._tokenizer, longest, "response")
        self._rows = grid.corpora.arms
        self._arms: dict[tuple[str, int], list[Example]] = {}
        self.held_out, self.held_out_left = tokenise(grid.corpora.held_out, self._renderer)
        if not self.held_out:
            raise ConfigError("held_out: no row has a response")
        positions = most_positions(located, config.evaluation.max_tokens)
        self.questions: Encoded | None = None
        if grid.questions:
            self.questions = encode(self._tokenizer, grid.questions, positions)

    def examples(self, arm: str, seed: int) -> list[Example]:
        """The examples of an arm."""
        rows = self._rows[arm, seed]
        same = next((k for k in self._arms if self._rows[k] is rows), None)  # most arms have 1 file
        if same is None:
            same, self._arms[arm, seed] = (arm, seed), tokenise(rows, self._renderer)[0]
        return self._arms[same]


def run(config: GridConfig, minutes: float | None = None, only: str | None = None) -> Outcome:
    """Do the cells that are left, in order. `only`: a pattern of cell names (`*.random-5.*`).

    A cell that would end later than `minutes` after this call does not start (`expected_seconds`
    says how long it takes). Raises ConfigError when the next cell would never fit, and
    MismatchError when the cells so far were done in another precision.
    """
    started = time.perf_counter()
    grid = Grid(config)
    results = grid.results()
    if any(r["bf16"] != grid.bf16 for r in results.values()):
        raise MismatchError(
            f"{config.output} has cells done in {'float32' if grid.bf16 else 'bfloat16'}: "
            "set training.bf16, or go on where they were done"
        )
    cells = [c for c in grid.cells if only is None or fnmatch.fnmatchcase(c.name, only)]
    if not cells:
        raise ConfigError(f"--only {only}: no cell has such a name, e.g. {grid.cells[-1].name}")
    todo = [c for c in cells if c.id not in results]
    if todo and config.evaluation.generate:
        harness.require()
    before = tuple(c.name for c in cells if c.id in results)
    done: list[str] = []
    tokens: tuple[str, _Tokens] | None = None
    while todo:
        cell = todo[0]
        if minutes is not None:
            seconds = expected_seconds(grid, cell, list(results.values()))
            if seconds > 60 * minutes:
                raise ConfigError(
                    f"{cell.name} takes about {seconds / 60:.1f} minutes and must fit into "
                    f"--minutes {minutes:g}: give more, or fewer steps, epochs or questions"
                )
            if time.perf_counter() - started + seconds > 60 * minutes:
                break
        if tokens is None or tokens[0] != cell.model:
            tokens = cell.model, _Tokens(grid, cell.model)
        results[cell.id] = result = _do(grid, cell, tokens[1])
        write_json(cell.file(config.output), result)
        done.append(todo.pop(0).name)
        log.info("%s: %.0f s, %d left", cell.name, result["seconds"], len(todo))
    return Outcome(before, tuple(done), tuple(c.name for c in todo))


def expected_seconds(grid: Grid, cell: Cell, results: Sequence[dict[str, Any]]) -> float:
    """Expected seconds: the longest evaluation so far, plus the longest step times the steps.

    Cells of this device count: those of the same model where one was tuned, else of any model. 0
    where there are none.
    """
    here = [r for r in results if r["device"] == _device()]
    mine = [r for r in here if r["revision"] == grid.located[cell.model].identity.revision]
    known = mine if any(r["tuned"] for r in mine) else here
    other = max((r["seconds"] - r["tune_seconds"] for r in known), default=0.0)
    if cell.regime is None or cell.seed is None:
        return other
    rate = max((r["tune_seconds"] / r["tuned"]["steps"] for r in known if r["tuned"]), default=0.0)
    rows = len(grid.corpora.arms[cell.arm, cell.seed])
    return other + rate * grid.config.plan(cell.regime, grid.bf16).n_steps(rows)


def _do(grid: Grid, cell: Cell, tokens: _Tokens) -> dict[str, Any]:
    started = time.perf_counter()
    config, bf16 = grid.config, grid.bf16
    model = causal.load(grid.located[cell.model])
    tuned: dict[str, Any] | None = None
    if cell.regime is not None and cell.seed is not None:
        examples = tokens.examples(cell.arm, cell.seed)
        plan = config.plan(cell.regime, bf16)
        tuned = dataclasses.asdict(tune(model, examples, plan, cell.seed))
        tuned["rows_without_response"] = len(grid.corpora.arms[cell.arm, cell.seed]) - len(examples)
        tuned["plan"] = dataclasses.asdict(plan)
    budget = config.evaluation.batch_tokens
    loss = held_out_loss(model, tokens.held_out, budget, bf16)
    loss_seconds = time.perf_counter() - started - (tuned["seconds"] if tuned else 0)
    found = {}
    if tokens.questions is not None:
        likelihoods = log_likelihoods(model, tokens.questions, budget, bf16)
        found = scores(tokens.questions.questions, likelihoods)
    answers = _written(grid, cell, model)
    used = ("torch", "transformers", "numpy", *(("lm_eval",) if answers else ()))
    return {
        "id": cell.id,
        "name": cell.name,
        "model": cell.model,
        "revision": grid.located[cell.model].identity.revision,
        "arm": cell.arm,
        "regime": cell.regime and cell.regime.name,
        "seed": cell.seed,
        "held_out": {
            "per_token": loss.per_token,
            "mean_of_tasks": loss.mean_of_tasks,
            "rows_without_response": tokens.held_out_left,
            "tasks": {label: dataclasses.asdict(g) for label, g in loss.groups.items()},
        },
        "choices": {
            "average": average(found) if found else None,
            "tasks": {task: dataclasses.asdict(s) for task, s in found.items()},
        },
        "written": {
            "average": harness.average(answers) if answers else None,
            "tasks": {task: dataclasses.asdict(w) for task, w in answers.items()},
        },
        "tuned": tuned,
        "bf16": bf16,
        "seconds": round(time.perf_counter() - started, 3),
        "tune_seconds": round(tuned["seconds"], 3) if tuned else 0.0,
        "load_and_loss_seconds": round(loss_seconds, 3),
        "device": _device(),
        "versions": {p: importlib.metadata.version(p) for p in used},
    }


def _written(grid: Grid, cell: Cell, model: Any) -> dict[str, Written]:
    """Scores of written answers. The harness gets a tokenizer of its own, because it changes it."""
    e = grid.config.evaluation
    if not e.generate:
        return {}
    folder = Path(grid.config.output) / "harness"
    tokenizer = load_tokenizer(grid.located[cell.model])
    return harness.written(
        model, tokenizer, grid.prompts, folder, e.max_new_tokens, e.generate_batch, grid.bf16
    )


def _device() -> str:
    device = pick_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _digest(rows: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()[:16]
