"""The whole run, and its two halves: capture once, select many times. Read this first."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

from mads_ray import runlog
from mads_ray.config import RunConfig, SelectionConfig
from mads_ray.errors import IncompleteError, MadsRayError
from mads_ray.features import configured_objective
from mads_ray.finished_run import FinishedRun, RunResult, refuse_other_core_set
from mads_ray.pipeline.base_core_set import base_of, refuse_to_lose_bases
from mads_ray.pipeline.capture.stage import capture
from mads_ray.pipeline.cluster import cluster
from mads_ray.pipeline.current_run import Run, open_run
from mads_ray.pipeline.density.count import density
from mads_ray.pipeline.ingest import find_input, ingest
from mads_ray.pipeline.record import finish, report
from mads_ray.pipeline.runtime.progress import Clock
from mads_ray.pipeline.select.ground_set import GroundSet
from mads_ray.pipeline.select.stage import CoreSet
from mads_ray.pipeline.select.stage import select as select_stage
from mads_ray.pipeline.target import target_counts
from mads_ray.pipeline.write import write
from mads_ray.report.render import is_whole, rerender
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates

log = logging.getLogger(__name__)


def run(config: RunConfig, overwrite: bool = False) -> RunResult:
    """Corpus to core set and report. What an earlier run of the same settings stored is reused.

    Args:
        config: All settings. `config.output` is the folder of the run.
        overwrite: Whether a finished core set of other settings may be replaced.

    Returns:
        The counts, metrics and timings of run.json, and the rows of the core set.

    Raises:
        MismatchError: The output holds a finished core set of other settings, or another corpus.
        ConfigError, CorpusError, ModelError: What the message says must be changed.
        IncompleteError: The run could not end. What is done is kept.

    Example:
        >>> from mads_ray import RunConfig, run
        >>> result = run(RunConfig(input=("data/*.jsonl",), output="runs/mine"))
        >>> result.counts.selected
        6
        >>> next(result.rows())["_mads"]["rank"]
        0
    """
    clock, output = Clock(), RunFolder(config.output)
    refuse_to_lose_bases(config.selection.base_core_set, output)
    found = find_input(config.input, config.corpus, output)
    with open_run("run", config, output, clock) as this:
        if not overwrite:
            refuse_other_core_set(config, output, output)
        ledger = this.stage("ingest", ingest, config.corpus, found)
        states = this.stage("capture", capture, config.capture, ledger)
        return (None if overwrite else _stored(this, states)) or _select_from(this, states)


def capture_states(config: RunConfig) -> CapturedStates:
    """Ingest, calibrate and capture only; `select` can follow any number of times.

    Args:
        config: All settings; those of the selection have no part in it.

    Returns:
        The states of the corpus, in `config.output`.

    Raises:
        MismatchError: The output holds another corpus, or states of another model.
        ConfigError, CorpusError, ModelError: What the message says must be changed.
        IncompleteError: The capture could not end. What is done is kept.

    Example:
        >>> from mads_ray import RunConfig, capture_states
        >>> states = capture_states(RunConfig(input=("data/*.jsonl",), output="runs/mine"))
        >>> states.examples
        40
    """
    clock, output = Clock(), RunFolder(config.output)
    found = find_input(config.input, config.corpus, output)
    with open_run("capture", config, output, clock) as this:
        ledger = this.stage("ingest", ingest, config.corpus, found)
        states = this.stage("capture", capture, config.capture, ledger)
        captured = {"examples": states.examples}
        runlog.write("run_finished", counts=captured, timings=clock.timings())
        return states


def select(
    config: RunConfig, states_from: str | Path | None = None, overwrite: bool = False
) -> RunResult:
    """Cluster and select from stored states.

    Args:
        config: All settings; those of corpus and capture are the stored ones.
        states_from: The run folder that holds the states; by default the output itself.
        overwrite: Whether a finished core set of other settings may be replaced.

    Returns:
        As `run`.

    Raises:
        IncompleteError: No complete capture is stored there.
        MismatchError: The output holds a finished core set of other settings.
        ConfigError: A setting does not go with the states; the message says which.

    Example:
        >>> from mads_ray import RunConfig, SelectionConfig, select
        >>> config = RunConfig(output="runs/ten", selection=SelectionConfig(size=10))
        >>> select(config, states_from="runs/mine").counts.selected
        10
    """
    clock, output = Clock(), RunFolder(config.output)
    refuse_to_lose_bases(config.selection.base_core_set, output)
    states = CapturedStates.open(output if states_from is None else RunFolder(states_from))
    config = _with_stored_capture(config, states)
    with open_run("select", config, output, clock) as this:
        if not overwrite:
            refuse_other_core_set(config, states.folder, output)
        return (None if overwrite else _stored(this, states)) or _select_from(this, states)


def _select_from(this: Run, states: CapturedStates) -> RunResult:
    if not states.examples:
        raise IncompleteError(
            f"every example was quarantined during capture; see {states.folder.quarantine}"
        )
    selection = this.config.selection
    dense = this.stage("density", density, selection, states)
    tree = this.stage("cluster", cluster, this.config.clustering, states, dense.pool)
    ground = GroundSet(states, tree, dense, rounds=this.output.rounds)
    core_set = this.stage("select", _core_set, selection, ground)
    tally = this.stage("write", write, ground, core_set)
    summary = this.stage("report", report, ground, core_set, tally)
    return finish(this, summary)


def _core_set(this: Run, selection: SelectionConfig, ground: GroundSet) -> CoreSet:
    states, tree = ground.states, ground.tree
    if selection.target:
        target_D = target_counts(this, selection.target, states, tree)
        ground = replace(ground, target_counts_D=target_D)
    if selection.base_core_set is not None:
        plain = configured_objective(selection, states.manifest, tree)
        base = base_of(selection.base_core_set, plain, tree, states.manifest)
        ground = replace(ground, base=base)
    return select_stage(this.config, ground)


def _stored(this: Run, states: CapturedStates) -> RunResult | None:
    """The result in the output folder, where its settings and states are those of this run.

    With a base core set or a target there is none: those files may have changed since.
    """
    finished, selection = FinishedRun.find(this.output), this.config.selection
    if finished is None or finished.differences(this.config, states.folder):
        return None
    builds_on_others = selection.base_core_set is not None or selection.target
    if builds_on_others or finished.summary["states_checksum"] != states.checksum:
        return None
    lacking = finished.lacks()
    if lacking:
        log.warning(
            "%s lacks or has damaged %d file(s) of its core set, first %s: selecting again",
            *(this.output.root, len(lacking), lacking[0]),
        )
        return None
    if not is_whole(this.output.report_html):
        log.warning("%s is gone or torn: making it again", this.output.report_html)
        try:
            rerender(this.output.root)
        except MadsRayError:  # report.json is gone, too
            return None
    log.info("%s holds this core set already", this.output.root)
    result = finished.result()
    runlog.write("run_finished", counts=asdict(result.counts), already=True)
    return result


def _with_stored_capture(config: RunConfig, states: CapturedStates) -> RunConfig:
    """`config` with the settings that made the states, in place of this command's defaults.

    run.json must repeat the run.
    """
    manifest = states.manifest
    requested = dict(manifest.settings)
    stored = {
        "model": manifest.model,
        "dtype": manifest.dtype,
        "revision": requested.pop("requested_revision"),
        **requested,
    }
    return config.model_copy(
        update={
            "input": states.source_files,
            "corpus": config.corpus.of_stored(states.identity["corpus"], states.folder.ledger),
            "capture": config.capture.model_copy(update=stored),
        }
    )
