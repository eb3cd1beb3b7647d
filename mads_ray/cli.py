"""The command line. Every flag is a field of `RunConfig`; `--set` reaches the rest of them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from mads_ray.cli_flags import (
    Address,
    BaseCoreSet,
    CalibrationFrom,
    CapCluster,
    CapSource,
    Compare,
    Config,
    FieldMap,
    FloorCluster,
    FloorSource,
    Format,
    Fraction,
    Input,
    Label,
    Method,
    Model,
    NearDuplicates,
    Objective,
    Output,
    QualityColumn,
    QualityWeight,
    Revision,
    Sample,
    Seed,
    Settings,
    Size,
    Target,
    Tokens,
    Workers,
)
from mads_ray.config import RunConfig, load_config
from mads_ray.errors import ConfigError, MadsRayError

app = typer.Typer(
    help="Select small, diverse core sets for instruction tuning by activation states, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SAMPLE = Path(__file__).parent / "sample_corpus"


@app.command()
def run(
    input: Input = None,
    sample: Sample = False,
    output: Output = None,
    config: Config = None,
    model: Model = None,
    revision: Revision = None,
    fraction: Fraction = None,
    size: Size = None,
    tokens: Tokens = None,
    seed: Seed = None,
    objective: Objective = None,
    output_format: Format = None,
    label_field: Label = None,
    field: FieldMap = None,
    method: Method = None,
    compare: Compare = None,
    base_core_set: BaseCoreSet = None,
    target: Target = None,
    quality_column: QualityColumn = None,
    quality_weight: QualityWeight = None,
    floor_per_cluster: FloorCluster = None,
    cap_per_cluster: CapCluster = None,
    floor_per_source: FloorSource = None,
    cap_per_source: CapSource = None,
    near_duplicates: NearDuplicates = None,
    calibration_from: CalibrationFrom = None,
    workers: Workers = None,
    ray_address: Address = None,
    set_: Settings = None,
) -> None:
    """Corpus to ranked core set and report; goes on where an interrupted run stopped."""
    with _friendly():
        from mads_ray.pipeline.run import run as pipeline_run

        overrides = _overrides(locals())
        result = pipeline_run(load_config(config, overrides))
        typer.echo(f"core set: {result.output / 'core_set'}\nreport:   {result.report}")


@app.command()
def capture(
    input: Input = None,
    sample: Sample = False,
    output: Output = None,
    config: Config = None,
    model: Model = None,
    revision: Revision = None,
    seed: Seed = None,
    label_field: Label = None,
    field: FieldMap = None,
    calibration_from: CalibrationFrom = None,
    workers: Workers = None,
    ray_address: Address = None,
    set_: Settings = None,
) -> None:
    """Ingest and capture activation states only."""
    with _friendly():
        from mads_ray.pipeline.run import capture as pipeline_capture

        loaded = load_config(config, _overrides(locals()))
        records = pipeline_capture(loaded)
        captured = sum(r.captured for r in records)
        typer.echo(f"states of {captured:,} examples: {Path(loaded.output).absolute() / 'states'}")


@app.command()
def select(
    states: Annotated[
        str | None, typer.Option("--states", help="Run folder to take states from.")
    ] = None,
    output: Output = None,
    config: Config = None,
    fraction: Fraction = None,
    size: Size = None,
    tokens: Tokens = None,
    seed: Seed = None,
    objective: Objective = None,
    output_format: Format = None,
    method: Method = None,
    compare: Compare = None,
    base_core_set: BaseCoreSet = None,
    target: Target = None,
    quality_column: QualityColumn = None,
    quality_weight: QualityWeight = None,
    floor_per_cluster: FloorCluster = None,
    cap_per_cluster: CapCluster = None,
    floor_per_source: FloorSource = None,
    cap_per_source: CapSource = None,
    near_duplicates: NearDuplicates = None,
    ray_address: Address = None,
    set_: Settings = None,
) -> None:
    """Select another core set from stored states, in seconds.

    Without --output the new core set replaces the one in the --states folder.
    """
    with _friendly():
        from mads_ray.pipeline.run import select as pipeline_select

        overrides = _overrides(locals())
        if output is None and states is not None:
            overrides["output"] = states
        loaded: RunConfig = load_config(config, overrides)
        result = pipeline_select(loaded, states)
        typer.echo(f"core set: {result.output / 'core_set'}\nreport:   {result.report}")


@app.command()
def report(output: Annotated[str, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Make report.html again from what a run stored."""
    with _friendly():
        from mads_ray.pipeline.run import rerender

        typer.echo(f"report: {rerender(output)}")


@app.command()
def explain(
    output: Annotated[str, typer.Argument(help="Folder of a finished run.")],
    uid: Annotated[str, typer.Argument(help="uid of an example, from core_set/ or selection/.")],
) -> None:
    """Tell why an example is in the core set, or why it is not."""
    with _friendly():
        from mads_ray.pipeline.explain import explain as pipeline_explain

        typer.echo(pipeline_explain(output, uid).text())


@app.command()
def doctor() -> None:
    """Show versions, devices and memory, and what is missing with the line that installs it."""
    with _friendly():
        from mads_ray.doctor import examine

        healthy = True
        for finding in examine():
            healthy = healthy and not finding.fatal
            typer.echo(f"{finding.mark} {finding.name:14} {finding.detail}")
            if finding.remedy:
                typer.echo(f"  {'':14} -> {finding.remedy}")
        if not healthy:
            raise typer.Exit(1)


_FIELDS = {
    "output": "output",
    "seed": "seed",
    "output_format": "output_format",
    "model": "capture.model",
    "revision": "capture.revision",
    "fraction": "selection.fraction",
    "size": "selection.size",
    "tokens": "selection.tokens",
    "objective": "selection.objective",
    "label_field": "corpus.label_field",
    "calibration_from": "capture.calibration_from",
    "workers": "ray.workers",
    "ray_address": "ray.address",
}


_FIELDS |= {
    name: f"selection.{name}"
    for name in (
        "method",
        "compare",
        "base_core_set",
        "target",
        "quality_column",
        "quality_weight",
        "floor_per_cluster",
        "cap_per_cluster",
        "floor_per_source",
        "cap_per_source",
        "near_duplicates",
    )
}
_FILES = ("selection.base_core_set", "selection.target", "capture.calibration_from")


def _overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags that were given, by the dotted name of their field."""
    found = {_FIELDS[k]: v for k, v in flags.items() if k in _FIELDS and v not in (None, [])}
    patterns = list(flags.get("input") or []) + ([str(SAMPLE)] if flags.get("sample") else [])
    if patterns:
        found["input"] = [_whole(p) for p in patterns]
    for name in _FILES:
        if name in found:
            value = found[name]
            found[name] = _whole(value) if isinstance(value, str) else [_whole(p) for p in value]
    if flags.get("field"):
        found["corpus.fields"] = dict(_pair(text, "--field") for text in flags["field"])
    for text in flags.get("set_") or []:
        name, value = _pair(text, "--set")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as e:
            raise ConfigError(f"--set {text}: {value!r} is not a YAML value") from e
    return found


def _whole(path: str) -> str:
    """run.json must tell where a file is from any folder."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{flag} {text}: expected NAME=VALUE")
    return name.strip(), value.strip()


@contextmanager
def _friendly() -> Iterator[None]:
    """Plain log lines, quiet libraries, one-line errors with exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mads_ray").setLevel(logging.INFO)
    try:
        yield
    except MadsRayError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(2) from e
    except OSError as e:  # a full disk, a folder without write access, a cluster out of reach
        typer.echo(f"error: {type(e).__name__}: {e}", err=True)
        raise typer.Exit(2) from e
    except KeyboardInterrupt as e:
        typer.echo("interrupted; the same command goes on where this one stopped", err=True)
        raise typer.Exit(130) from e


if __name__ == "__main__":
    app()
