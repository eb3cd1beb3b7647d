"""The command line. Every flag is a field of `RunConfig`; `--set` reaches the rest of them."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from mads_ray.cli_flags import (
    Address,
    BaseCoreSet,
    CalibrationFrom,
    CapCluster,
    CapSource,
    Compare,
    Config,
    CoreSets,
    Engine,
    FieldMap,
    FloorCluster,
    FloorSource,
    Format,
    Fraction,
    HeadRows,
    HookModule,
    Input,
    Json,
    Label,
    Method,
    Model,
    NearDuplicates,
    Objective,
    Output,
    Overwrite,
    QualityColumn,
    QualityWeight,
    Revision,
    Sample,
    SampleRows,
    Seed,
    Settings,
    Size,
    SkipBroken,
    Split,
    Target,
    TextOnly,
    Tokens,
    Vectors,
    Workers,
    named_paths,
    overrides_of,
)
from mads_ray.config import RunConfig, load_config
from mads_ray.errors import MadsRayError, Stopped
from mads_ray.printable import LONGEST, log_plainly, printable, shortened

app = typer.Typer(
    help="Select small, diverse core sets for instruction tuning by activation states, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    input: Input = None,
    sample: Sample = False,
    output: Output = None,
    config: Config = None,
    model: Model = None,
    revision: Revision = None,
    hook_module: HookModule = None,
    engine: Engine = None,
    fraction: Fraction = None,
    size: Size = None,
    tokens: Tokens = None,
    seed: Seed = None,
    objective: Objective = None,
    output_format: Format = None,
    label_field: Label = None,
    field: FieldMap = None,
    split: Split = None,
    skip_broken_files: SkipBroken = False,
    text_only: TextOnly = False,
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
    overwrite: Overwrite = False,
    ray_address: Address = None,
    set_: Settings = None,
) -> None:
    """Corpus to ranked core set and report; goes on where an interrupted run stopped."""
    with _friendly():
        from mads_ray.pipeline.run import run as pipeline_run

        overrides = overrides_of(locals())
        result = pipeline_run(load_config(config, overrides), overwrite)
        _say(f"core set: {result.output / 'core_set'}\nreport:   {result.report}")


@app.command()
def capture(
    input: Input = None,
    sample: Sample = False,
    output: Output = None,
    config: Config = None,
    model: Model = None,
    revision: Revision = None,
    hook_module: HookModule = None,
    engine: Engine = None,
    seed: Seed = None,
    label_field: Label = None,
    field: FieldMap = None,
    split: Split = None,
    skip_broken_files: SkipBroken = False,
    text_only: TextOnly = False,
    calibration_from: CalibrationFrom = None,
    workers: Workers = None,
    ray_address: Address = None,
    set_: Settings = None,
) -> None:
    """Ingest and capture activation states only."""
    with _friendly():
        from mads_ray.pipeline.run import capture_states

        loaded = load_config(config, overrides_of(locals()))
        states = capture_states(loaded)
        _say(f"states of {states.examples:,} examples: {states.folder.states}")


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
    overwrite: Overwrite = False,
    ray_address: Address = None,
    set_: Settings = None,
) -> None:
    """Select another core set from stored states, in seconds.

    Without --output the core set goes into the --states folder.
    """
    with _friendly():
        from mads_ray.pipeline.run import select as pipeline_select

        overrides = overrides_of(locals())
        if output is None and states is not None:
            overrides["output"] = states
        loaded: RunConfig = load_config(config, overrides)
        result = pipeline_select(loaded, states, overwrite)
        _say(f"core set: {result.output / 'core_set'}\nreport:   {result.report}")


@app.command()
def inspect(
    input: Input = None,
    sample: Sample = False,
    config: Config = None,
    model: Model = None,
    revision: Revision = None,
    label_field: Label = None,
    field: FieldMap = None,
    split: Split = None,
    text_only: TextOnly = False,
    rows: HeadRows = 1000,
    json_: Json = False,
    set_: Settings = None,
) -> None:
    """Show how the rows of input files are understood: nothing is run, nothing is written.

    Without --model no model is needed; with it, three examples are shown as that model gets them.
    """
    with _friendly():
        from mads_ray.corpus.inspection import inspect_input, to_json, to_text

        # A configuration has an output; here nothing goes there.
        overrides = ({} if config else {"output": "."}) | overrides_of(locals())
        loaded = load_config(config, overrides)
        found = inspect_input(loaded, rows)
        render = None
        if model is not None:
            from mads_ray.capture.shown import shower

            render = shower(loaded.capture)
        if json_:
            typer.echo(json.dumps(to_json(found, render), ensure_ascii=False, indent=1))
        else:
            typer.echo(to_text(found, render))
        if found.first_error is not None:  # a run would stop there
            raise found.first_error


@app.command()
def report(output: Annotated[str, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Make report.html again from what a run stored."""
    with _friendly():
        from mads_ray.report.render import rerender

        _say(f"report: {rerender(output)}")


@app.command()
def explain(
    output: Annotated[str, typer.Argument(help="Folder of a finished run.")],
    uid: Annotated[str, typer.Argument(help="uid of an example, from core_set/ or selection/.")],
) -> None:
    """Tell why an example is in the core set, or why it is not."""
    with _friendly():
        from mads_ray.pipeline.explain import explain as pipeline_explain

        _say(pipeline_explain(output, uid).text())


@app.command()
def evaluate(
    output: Annotated[str, typer.Argument(help="Folder of a finished run.")],
    core_set: CoreSets = None,
    vectors: Vectors = "sketch",
    sample: SampleRows = 4096,
    json_: Json = False,
) -> None:
    """Measure how diverse a core set is, beside random and longest rows; also for the report."""
    with _friendly():
        from mads_ray.evaluation.evaluate import evaluate as pipeline_evaluate
        from mads_ray.evaluation.evaluate import store_evaluation
        from mads_ray.report.diversity import text

        found = pipeline_evaluate(output, named_paths(core_set), vectors, sample)
        _say(json.dumps(found, indent=1) if json_ else text(found))
        store_evaluation(output, found)


@app.command()
def doctor(
    address: Annotated[
        str | None, typer.Option("--address", help="Ray cluster to examine too, e.g. auto.")
    ] = None,
    model: Model = None,
    output: Output = None,
) -> None:
    """Show versions, devices and memory, and what is missing with the line that installs it.

    With --address (or --model or --output) also the cluster: every node, the model and the output
    as seen from there. Exit code 1 when a run would fail.
    """
    with _friendly():
        from mads_ray.doctor import Finding, examine

        def findings() -> Iterator[Finding]:
            yield from examine()
            if healthy and (address or model or output):  # without Ray there is no joining one
                from mads_ray.pipeline.doctor.cluster import examine_cluster

                yield from examine_cluster(address, model, output)

        healthy = True
        for finding in findings():
            healthy = healthy and not finding.fatal
            _say(f"{finding.mark} {finding.name:14} {finding.detail}")
            if finding.remedy:
                _say(f"  {'':14} -> {finding.remedy}")
        if not healthy:
            raise typer.Exit(1)


bench = typer.Typer(help="Measure on this machine.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],  # the flags are those of mads_ray.bench, which needs no typer
    }
)
def throughput(context: typer.Context) -> None:
    """Speed of capture: --model NAME or --random-weights SHAPE; --help lists the rest."""
    from mads_ray.bench.__main__ import main

    raise typer.Exit(main(context.args))


def _say(text: str, *, error: bool = False) -> None:
    """Names and texts of others are in it."""
    typer.echo(printable(text), err=error)


@contextmanager
def _friendly() -> Iterator[None]:
    """Plain log lines, quiet libraries, one-line errors with exit code 2."""
    log_plainly(logging.WARNING)
    logging.getLogger("mads_ray").setLevel(logging.INFO)
    try:
        yield
    except MadsRayError as e:
        _say(f"error: {shortened(str(e))}", error=True)
        raise typer.Exit(2) from e
    except OSError as e:  # a full disk, a folder without write access, a cluster out of reach
        _say(f"error: {type(e).__name__}: {shortened(str(e))}", error=True)
        raise typer.Exit(2) from e
    except KeyboardInterrupt as e:
        what, code = (str(e), 143) if isinstance(e, Stopped) else ("interrupted", 130)
        _say(f"{what}; the same command goes on where this one stopped", error=True)
        raise typer.Exit(code) from e
    except typer.Exit:
        raise
    except Exception as e:  # a fault of ours: whatever its message holds
        _say(shortened(traceback.format_exc(), 10 * LONGEST), error=True)
        raise typer.Exit(1) from e


if __name__ == "__main__":
    app()
