"""The commands. Each loads the configuration and calls one function of the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

import typer

from mads_ray.cli.flags import Given, named_paths, option, with_settings
from mads_ray.cli.friendly import friendly, say

app = typer.Typer(
    help="Select small, diverse core sets for instruction tuning by activation states, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, not text.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace a finished core set of other settings in --output."),
]
FinishedRun = Annotated[str, typer.Argument(help="Folder of a finished run.")]


@app.command()
@with_settings("input", "output", "seed", "output_format", "corpus", "capture", "selection", "ray")
def run(given: Given, overwrite: Overwrite = False) -> None:
    """Corpus to ranked core set and report; goes on where an interrupted run stopped."""
    from mads_ray.pipeline.run import run as pipeline_run

    result = pipeline_run(given.load(), overwrite)
    say(f"core set: {result.output / 'core_set'}\nreport:   {result.report}")


@app.command()
@with_settings("input", "output", "seed", "corpus", "capture", "ray")
def capture(given: Given) -> None:
    """Ingest and capture activation states only."""
    from mads_ray.pipeline.run import capture_states

    states = capture_states(given.load())
    say(f"states of {states.examples:,} examples: {states.folder.states}")


@app.command()
@with_settings("output", "seed", "output_format", "selection", "ray.address")
def select(
    given: Given,
    states: Annotated[
        str | None, typer.Option("--states", help="Run folder to take states from.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Select another core set from stored states, in seconds.

    Without --output the core set goes into the --states folder.
    """
    from mads_ray.pipeline.run import select as pipeline_select

    config = given.load(**({} if states is None else {"output": states}))
    result = pipeline_select(config, states, overwrite)
    say(f"core set: {result.output / 'core_set'}\nreport:   {result.report}")


@app.command()
@with_settings(
    "input",
    "corpus.label_field",
    "corpus.fields",
    "corpus.split",
    "corpus.text_only",
    "capture.model",
    "capture.revision",
)
def inspect(
    given: Given,
    rows: Annotated[
        int, typer.Option("--rows", min=1, help="Rows to look at, from the head of each file.")
    ] = 1000,
    json_: Json = False,
) -> None:
    """Show how the rows of input files are understood: nothing is run, nothing is written.

    Without --model no model is needed; with it, three examples are shown as that model gets them.
    """
    from mads_ray.corpus.inspection import inspect_input, to_json, to_text

    # A configuration has an output; here nothing goes there.
    config = given.load(**({} if given.file else {"output": "."}))
    found = inspect_input(config, rows)
    render = None
    if "capture.model" in given.overrides:
        from mads_ray.capture.shown import shower

        render = shower(config.capture)
    if json_:
        typer.echo(json.dumps(to_json(found, render), ensure_ascii=False, indent=1))
    else:
        typer.echo(to_text(found, render))
    if found.first_error is not None:  # a run would stop there
        raise found.first_error


@app.command()
@friendly()
def report(output: FinishedRun) -> None:
    """Make report.html again from what a run stored."""
    from mads_ray.report.render import rerender

    say(f"report: {rerender(output)}")


@app.command()
@friendly()
def explain(
    output: FinishedRun,
    uid: Annotated[str, typer.Argument(help="uid of an example, from core_set/ or selection/.")],
) -> None:
    """Tell why an example is in the core set, or why it is not."""
    from mads_ray.pipeline.explain import explain as pipeline_explain

    say(pipeline_explain(output, uid).text())


@app.command()
@friendly()
def evaluate(
    output: FinishedRun,
    core_set: Annotated[
        list[str] | None,
        typer.Option(
            "--core-set",
            help="Another core set beside it, NAME=PATH: a run folder, core_set/ files, or uids in "
            "a text file. Repeatable.",
        ),
    ] = None,
    vectors: Annotated[
        str, typer.Option("--vectors", help="sketch, or hidden where stored.")
    ] = "sketch",
    sample: Annotated[
        int,
        typer.Option("--sample", help="Rows of each set and of the pool whose vectors to compare."),
    ] = 4096,
    json_: Json = False,
) -> None:
    """Measure how diverse a core set is, beside random and longest rows; also for the report."""
    from mads_ray.evaluation.evaluate import evaluate as pipeline_evaluate
    from mads_ray.evaluation.evaluate import store_evaluation
    from mads_ray.report.diversity import text

    found = pipeline_evaluate(output, named_paths(core_set), vectors, sample)
    say(json.dumps(found, indent=1) if json_ else text(found))
    store_evaluation(output, found)


@app.command()
@friendly()
def doctor(
    address: Annotated[
        str | None, typer.Option("--address", help="Ray cluster to examine too, e.g. auto.")
    ] = None,
    model: Annotated[str | None, option("capture.model")] = None,
    output: Annotated[str | None, option("output")] = None,
) -> None:
    """Show versions, devices and memory, and what is missing with the line that installs it.

    With --address (or --model or --output) also the cluster: every node, the model and the output
    as seen from there. Exit code 1 when a run would fail.
    """
    from mads_ray.doctor import Finding, examine

    def findings() -> Iterator[Finding]:
        yield from examine()
        if healthy and (address or model or output):  # without Ray there is no joining one
            from mads_ray.pipeline.doctor.cluster import check_cluster

            yield from check_cluster(address, model, output)

    healthy = True
    for finding in findings():
        healthy = healthy and not finding.fatal
        say(f"{finding.mark} {finding.name:14} {finding.detail}")
        if finding.remedy:
            say(f"  {'':14} -> {finding.remedy}")
    if not healthy:
        raise typer.Exit(1)


@app.command()
@with_settings("input", "output", "seed", "output_format", "corpus", "capture", "selection", "ray")
def config(
    given: Given,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of configuration files.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Print docs/settings.md: every setting.")
    ] = False,
) -> None:
    """Print the whole configuration that these flags and --config give, as YAML."""
    from mads_ray.cli import pages

    if schema:
        typer.echo(pages.schema(), nl=False)
    elif reference:
        typer.echo(pages.reference(), nl=False)
    else:
        typer.echo(pages.effective(given), nl=False)


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
