"""Fill the HTML template. All text of the corpus is escaped, because rows may hold any markup."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mads_ray.errors import ConfigError
from mads_ray.finished_run import SELECT_AGAIN, FinishedRun
from mads_ray.printable import printable
from mads_ray.report.charts import coverage_chart, length_chart
from mads_ray.report.diversity import note, table
from mads_ray.storage import write_text
from mads_ray.stored.records import read_kept, read_marker


def render_report(
    target: Path,
    summary: dict[str, Any],
    data: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
) -> None:
    """Write report.html.

    `summary` is run.json and `data` report.json. `evaluation`, evaluation.json, adds its table.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mads_ray", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Names and texts of the corpus must not reverse or hide the text beside them.
    environment.finalize = lambda x: printable(x) if type(x) is str else x
    environment.filters["percent"] = lambda x, digits=1: f"{100 * x:.{digits}f}%"
    environment.filters["n"] = lambda x: f"{x:,}"
    config = summary["config"]
    html = environment.get_template("report.html.j2").render(
        run=summary,
        data=data,
        diversity=evaluation and (*table(evaluation), note(evaluation)),
        inputs=[Path(p).name or p for p in config["input"]],
        repeat=f"mads-ray run --config {shlex.quote(str(target.with_name('run.json')))} "
        "--output NEW_FOLDER",
        chart_f=Markup(coverage_chart(data["curve"], "f")),
        chart_neurons=Markup(coverage_chart(data["curve"], "neurons")),
        chart_lengths=Markup(length_chart(data["lengths"])),
    )
    write_text(target, html)


def is_whole(report: Path) -> bool:
    """Whether a report is there to its last line."""
    try:
        return report.read_bytes().rstrip().endswith(b"</html>")
    except FileNotFoundError:
        return False


def rerender(output: str | Path) -> Path:
    """Make report.html again from what a run stored.

    Args:
        output: Folder of a finished run.

    Returns:
        The path of the report.

    Raises:
        ConfigError: There is no finished run.

    Example:
        >>> from mads_ray import rerender
        >>> rerender("runs/mine").name
        'report.html'
    """
    run = FinishedRun.open(output)
    folder, summary = run.folder, run.summary
    data = read_kept(folder.report_data, dict, f"remove it and {SELECT_AGAIN}")
    if data is None:
        raise ConfigError(f"{folder.root} holds no report.json: make the core set again")
    evaluation = read_marker(folder.evaluation, dict)
    if evaluation is not None and evaluation.get("run_finished") != summary["finished"]:
        evaluation = None  # it is of an earlier core set in this folder
    render_report(folder.report_html, summary, data, evaluation)
    return folder.report_html
