"""Means over seeds with confidence intervals, paired by seed: a table, a JSON file and a plot."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mads_ray.finetune.config import UNTUNED, GridConfig
from mads_ray.storage import write_json, write_text, write_whole

log = logging.getLogger(__name__)

# Student's t at 97.5% for 1 to 10 degrees of freedom. For more, the series of Fisher and Cornish
# (1960) is exact to one part in 10,000. A bare machine has no scipy.
_T = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)
_Z = 1.959963985

MEASURES = {
    "loss_per_token": "held-out loss, nats per response token",
    "loss_mean_of_tasks": "held-out loss, mean of tasks",
    "choices": "multiple choice, mean of tasks",
    "written": "written answers, mean of tasks",
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` seeds; `half` is half of its 95% confidence interval, None for one seed."""

    mean: float
    half: float | None
    n: int

    def text(self, digits: int = 4, sign: bool = False) -> str:
        """The interval as text for a table."""
        mean = f"{self.mean:{'+' if sign else ''}.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Line:
    """One arm of one model and regime. Differences are to `reference`, over the shared seeds."""

    model: str
    regime: str | None
    arm: str
    rows: int | None
    steps: int | None
    reference: str | None
    measures: dict[str, Interval]
    differences: dict[str, Interval]


def t_quantile(freedom: int) -> float:
    """The 97.5% point of Student's t for one or more degrees of freedom."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95% confidence interval (Student's t) of independent values."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, None, n)
    return Interval(mean, t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n), n)


def summarise(config: GridConfig, results: Sequence[dict[str, Any]]) -> list[Line]:
    """One line for every model, regime and arm with a result, in the order of the configuration."""
    regimes = [None, *(r.name for r in config.regimes)]
    lines = []
    for model in config.models:
        for regime in regimes:
            for arm in [UNTUNED] if regime is None else list(config.arms):
                cells = _by_seed(results, model, regime, arm)
                if cells:
                    reference = None if regime is None else config.reference_of(arm)
                    others = _by_seed(results, model, regime, reference) if reference else {}
                    lines.append(_line(model, regime, arm, cells, reference, others))
    return lines


def _by_seed(
    results: Sequence[dict[str, Any]], model: str, regime: str | None, arm: str
) -> dict[int | None, dict[str, Any]]:
    wanted = (model, regime, arm)
    return {r["seed"]: r for r in results if (r["model"], r["regime"], r["arm"]) == wanted}


def _line(
    model: str,
    regime: str | None,
    arm: str,
    cells: dict[int | None, dict[str, Any]],
    reference: str | None,
    others: dict[int | None, dict[str, Any]],
) -> Line:
    mine = {seed: _measures(r) for seed, r in cells.items()}
    theirs = {seed: _measures(r) for seed, r in others.items()}
    shared = [seed for seed in mine if seed in theirs]
    names = list(next(iter(mine.values())))
    tuned = next(iter(cells.values()))["tuned"]
    return Line(
        model,
        regime,
        arm,
        tuned and tuned["examples"],
        tuned and tuned["steps"],
        reference,
        {name: interval([m[name] for m in mine.values()]) for name in names},
        {name: interval([mine[s][name] - theirs[s][name] for s in shared]) for name in names}
        if shared
        else {},
    )


def _measures(result: dict[str, Any]) -> dict[str, float]:
    """The main figures, then all scores of each task."""
    held_out, choices = result["held_out"], result["choices"]
    found = {
        "loss_per_token": held_out["per_token"],
        "loss_mean_of_tasks": held_out["mean_of_tasks"],
    }
    if choices["average"] is not None:
        found["choices"] = choices["average"]
    written = result.get("written", {"average": None, "tasks": {}})  # older cells do not have it
    if written["average"] is not None:
        found["written"] = written["average"]
    for task, one in written["tasks"].items():
        found |= {f"{task}.{m}": value for m, value in one["scores"].items()}
    for task, scores in choices["tasks"].items():
        found |= {f"{task}.{m}": scores[m] for m in ("acc", "acc_norm", "mass")}
    return found


def markdown(lines: Sequence[Line]) -> str:
    """A table of the main figures in Markdown. ± is half of a 95% interval."""
    shown = [m for m in MEASURES if any(m in line.measures for line in lines)]
    head = ["model", "regime", "arm", "rows", "steps", "seeds"]
    for name in shown:
        head += [MEASURES[name], "less the reference, by seed"]
    body = [head, ["---"] * len(head)]
    for line in lines:
        seeds = str(line.measures["loss_per_token"].n) if line.regime else ""
        row = [Path(line.model).name, line.regime or "", line.arm]
        row += [str(v) if v is not None else "" for v in (line.rows, line.steps)] + [seeds]
        for name in shown:
            row.append(line.measures[name].text())
            difference = line.differences.get(name)
            row.append(f"{difference.text(sign=True)} ({line.reference})" if difference else "")
        body.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in body) + "\n"


def write(
    config: GridConfig, results: Sequence[dict[str, Any]], cells: int
) -> tuple[str, list[str]]:
    """Write summary.json, table.md and plot.png to the output folder.

    Returns the table and the names of the files. Without matplotlib there is no plot. `cells`: the
    number of all cells, done or not.
    """
    lines, output = summarise(config, results), Path(config.output)
    table = markdown(lines)
    told = f"{len(results)} of {cells} cells. ± is half of a 95% interval (Student's t over seeds)."
    write_text(output / "table.md", f"{told}\n\n{table}")
    write_json(
        output / "summary.json",
        {"cells": cells, "done": len(results), "lines": [asdict(line) for line in lines]},
    )
    files = ["summary.json", "table.md"]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.warning("no plot: matplotlib is not installed here")
        return table, files
    _plot(Figure, lines, output / "plot.png")
    return table, [*files, "plot.png"]


def _plot(figure_of: Any, lines: Sequence[Line], file: Path) -> None:
    """Plot a column for each model and regime, and a row for each measure. Untuned is a line."""
    shown = [m for m in MEASURES if any(m in line.measures for line in lines)]
    every = list(dict.fromkeys((x.model, x.regime) for x in lines))
    columns = [c for c in every if c[1] is not None] or every
    figure = figure_of(figsize=(4.5 * len(columns), 3.0 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(columns), squeeze=False)
    for column, (model, regime) in enumerate(columns):
        here = [x for x in lines if (x.model, x.regime) == (model, regime) and regime]
        untuned = [x for x in lines if x.model == model and x.regime is None]
        for row, name in enumerate(shown):
            axis = axes[row][column]
            found = [x.measures[name] for x in here]
            axis.errorbar(
                [x.arm for x in here],
                [i.mean for i in found],
                yerr=[i.half or 0.0 for i in found],
                fmt="o",
                capsize=3,
            )
            for line in untuned:
                axis.axhline(line.measures[name].mean, color="grey", linestyle=":")
            axis.set_ylabel(MEASURES[name], fontsize=8)
            axis.tick_params(axis="x", rotation=45, labelsize=8)
        axes[0][column].set_title(f"{Path(model).name}, {regime or UNTUNED}", fontsize=9)
    write_whole(file, lambda p: figure.savefig(p, format="png", dpi=120))
