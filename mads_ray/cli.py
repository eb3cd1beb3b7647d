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

from mads_ray.config import RunConfig, load_config
from mads_ray.errors import ConfigError, MadsRayError

app = typer.Typer(
    help="Select small, diverse core sets for instruction tuning by activation states, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SAMPLE = Path(__file__).parent / "sample_corpus"

Input = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="File, folder or glob; s3://, gs://, hf://. Repeatable."),
]
Sample = Annotated[bool, typer.Option("--sample", help="Use the sample corpus in the package.")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Folder of the run.")]
Config = Annotated[str | None, typer.Option("--config", "-c", help="YAML file, or a run.json.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Hub name, local folder, or smollm2-135m.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Hub revision of the model.")]
Fraction = Annotated[float | None, typer.Option("--fraction", help="Budget: share of examples.")]
Size = Annotated[int | None, typer.Option("--size", help="Budget: number of examples.")]
Tokens = Annotated[int | None, typer.Option("--tokens", help="Budget: number of tokens.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seeds k-means, ties and random core sets.")
]
Objective = Annotated[str | None, typer.Option("--objective", help="sqrt, log1p, union or cap:T.")]
Format = Annotated[str | None, typer.Option("--output-format", help="jsonl or parquet.")]
Label = Annotated[
    str | None, typer.Option("--label-field", help="Field that names a row's task, for the report.")
]
FieldMap = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        help="Field map, e.g. --field prompt=question --field response=answer. Also: messages, "
        "system, input.",
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", help="Capture workers.")]
Address = Annotated[str | None, typer.Option("--ray-address", help="Ray cluster to run on.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, e.g. --set capture.max_tokens=1024."),
]


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
    "workers": "ray.workers",
    "ray_address": "ray.address",
}


def _overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags that were given, by the dotted name of their field."""
    found = {_FIELDS[k]: v for k, v in flags.items() if k in _FIELDS and v is not None}
    patterns = list(flags.get("input") or []) + ([str(SAMPLE)] if flags.get("sample") else [])
    if patterns:
        found["input"] = [
            p if "://" in p else os.path.abspath(os.path.expanduser(p)) for p in patterns
        ]
    if flags.get("field"):
        found["corpus.fields"] = dict(_pair(text, "--field") for text in flags["field"])
    for text in flags.get("set_") or []:
        name, value = _pair(text, "--set")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as e:
            raise ConfigError(f"--set {text}: {value!r} is not a YAML value") from e
    return found


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
