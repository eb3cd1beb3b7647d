"""The whole run, and its two halves: capture once, select many times."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from mads_ray import runlog
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig
from mads_ray.corpus.reading.discovery import Discovered
from mads_ray.errors import IncompleteError
from mads_ray.features import configured_objective
from mads_ray.finished_run import RunResult, differences, keep_other
from mads_ray.ledger import CorpusLedger, Counts, StateRecord
from mads_ray.pipeline.base_core_set import base_of, keep_bases
from mads_ray.pipeline.capture import capture as capture_stage
from mads_ray.pipeline.cluster import stored_cluster
from mads_ray.pipeline.ingest import find_input, ingest
from mads_ray.pipeline.reading import reading_of
from mads_ray.pipeline.record import beginning, counts_of, summarize
from mads_ray.pipeline.runtime.progress import Clock
from mads_ray.pipeline.runtime.prometheus import observe
from mads_ray.pipeline.runtime.session import ray_session, record_cluster
from mads_ray.pipeline.select.stage import Corpus
from mads_ray.pipeline.select.stage import select as select_stage
from mads_ray.pipeline.target import capture_target, target_counts
from mads_ray.pipeline.write import write_outputs
from mads_ray.report.data import report_data
from mads_ray.report.render import render_report
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedShard, StatesManifest, captured_shards, states_checksum
from mads_ray.storage import read_json, write_json

log = logging.getLogger("mads_ray")

_KEY_METRICS = ("f", "f_random_mean", "lift_at_least", "certified_ratio", "neuron_coverage")


def run(config: RunConfig, overwrite: bool = False) -> RunResult:
    """Corpus to core set and report. What an earlier run of the same settings stored is reused.

    Raises MismatchError where the output holds a finished core set of other settings, unless it may
    be overwritten.
    """
    clock = Clock()
    folder = RunFolder(config.output)
    keep_bases(config, folder)
    files = find_input(config, folder)
    with _session("run", config, folder):
        if not overwrite:
            keep_other(config, folder, folder)
        ledger, records = _capture(config, folder, files, clock)
        if overwrite or (found := _finished(config, folder, folder, records)) is None:
            return _select(config, folder, folder, ledger, records, clock)
        return found


def capture(config: RunConfig) -> list[StateRecord]:
    """Ingest, calibrate and capture only; `select` can follow any number of times."""
    folder = RunFolder(config.output)
    files = find_input(config, folder)
    with _session("capture", config, folder):
        records = _capture(config, folder, files, clock := Clock())[1]
        captured = {"examples": sum(r.captured for r in records)}
        runlog.write("run_finished", counts=captured, timings=clock.timings())
        return records


def select(
    config: RunConfig, states_from: str | Path | None = None, overwrite: bool = False
) -> RunResult:
    """Cluster and select from stored states (by default those in the output itself).

    Raises IncompleteError where no complete capture is stored, MismatchError where the output holds
    a finished core set of other settings, unless it may be overwritten.
    """
    clock = Clock()
    target = RunFolder(config.output)
    keep_bases(config, target)
    source = RunFolder(states_from) if states_from is not None else target
    ledger = source.load_ledger()
    manifest = StatesManifest.load(source.manifest)
    records = source.check_states(ledger, manifest.calibration)
    config = _with_stored_capture(config, source, manifest)
    with _session("select", config, target):
        if not overwrite:
            keep_other(config, source, target)
            if (found := _finished(config, source, target, records)) is not None:
                return found
        return _select(config, source, target, ledger, records, clock)


def _finished(
    config: RunConfig, source: RunFolder, target: RunFolder, records: list[StateRecord]
) -> RunResult | None:
    """What the target holds already, where that is the core set of these settings and states.

    Other runs and files that a selection builds on may have changed: there it is made again.
    """
    summary = read_json(target.run_json)
    if summary is None or differences(config, source, summary):
        return None
    others = config.selection.base_core_set is not None or config.selection.target
    if others or summary["states_checksum"] != states_checksum(records):
        return None
    log.info("%s holds this core set already", target.root)
    counts = Counts(**summary["counts"])
    runlog.write("run_finished", counts=asdict(counts), already=True)
    return RunResult(target.root, counts, summary["metrics"], summary["timings"])


@contextmanager
def _session(stages: str, config: RunConfig, folder: RunFolder) -> Iterator[None]:
    """The folder for ourselves, its log, and Ray."""
    with (
        folder.claim(),
        runlog.recording(folder.log, **beginning(stages, config)),
        ray_session(config.ray),
    ):
        record_cluster()
        yield


def _capture(
    config: RunConfig, folder: RunFolder, files: Discovered, clock: Clock
) -> tuple[CorpusLedger, list[StateRecord]]:
    with clock.stage("ingest"):
        ledger = ingest(config, folder, files)
    with clock.stage("capture"):
        records = capture_stage(config, folder, ledger)
    return ledger, records


def _with_stored_capture(
    config: RunConfig, source: RunFolder, manifest: StatesManifest
) -> RunConfig:
    """`run.json` must tell the settings that made the states, not this command's defaults."""
    identity = source.corpus_identity()
    assert identity is not None
    requested = dict(manifest.settings)
    stored = {
        "model": manifest.model,
        "dtype": manifest.dtype,
        "revision": requested.pop("requested_revision"),
        **requested,
    }
    corpus = config.corpus.model_validate(identity["corpus"])
    files = tuple(f["path"] for f in identity["files"])
    return config.model_copy(
        update={
            "input": files,
            "corpus": corpus,
            "capture": config.capture.model_copy(update=stored),
        }
    )


def _select(
    config: RunConfig,
    source: RunFolder,
    target: RunFolder,
    ledger: CorpusLedger,
    records: list[StateRecord],
    clock: Clock,
) -> RunResult:
    manifest = StatesManifest.load(source.manifest)
    shards = captured_shards(source, records)
    examples = sum(r.captured for r in records)
    if not examples:
        raise IncompleteError(
            f"every example was quarantined during capture; see {source.quarantine}"
        )
    with clock.stage("cluster"):
        tree = stored_cluster(config, target, records, shards)
    with clock.stage("select"):
        corpus = _corpus(config, source, target, shards, manifest, tree, records)
        core = select_stage(config, corpus)
    with clock.stage("write"):
        tally = write_outputs(config, target, corpus, records, core)
    counts = counts_of(ledger, records, tally)
    with clock.stage("report"):
        reading = reading_of(source, ledger, records)
        data = report_data(source, tree, core.curve, core.metrics["methods"], tally, reading)
        write_json(target.report_data, data)
        timings = clock.timings()
        summary = summarize(config, source, manifest, counts, core, records, tally.tokens, timings)
        summary["reading"] = reading
        render_report(target.report_html, summary, data)
    summary["timings"] = timings = clock.timings()
    write_json(target.run_json, summary)
    shutil.rmtree(target.rounds, ignore_errors=True)
    key = {name: core.metrics[name] for name in _KEY_METRICS}
    observe("mads_ray_f", core.metrics["f"])
    observe("mads_ray_lift_at_least", core.metrics["lift_at_least"])
    runlog.write("run_finished", counts=asdict(counts), metrics=key, timings=timings)
    log.info(
        "selected %s of %s examples in %s, at least %.1f%% of the best possible coverage",
        *(f"{counts.selected:,}", f"{counts.examples:,}", f"{timings['total']:.0f} s"),
        100 * core.metrics["certified_ratio"],
    )
    return RunResult(target.root, counts, core.metrics, timings)


def _corpus(
    config: RunConfig,
    source: RunFolder,
    target: RunFolder,
    shards: list[CapturedShard],
    manifest: StatesManifest,
    tree: ClusterTree,
    records: list[StateRecord],
) -> Corpus:
    identity = source.corpus_identity()
    assert identity is not None
    files = tuple(f["path"] for f in identity["files"])
    target_counts_D = base = None
    plain = configured_objective(config, manifest, tree, None)
    if config.selection.target:
        captured = capture_target(config, source, target.target)
        target_counts_D = target_counts(captured, tree, plain)
    if config.selection.base_core_set is not None:
        base = base_of(config.selection.base_core_set, plain, tree, manifest)
    return Corpus(
        shards,
        manifest,
        tree,
        sum(r.captured for r in records),
        files,
        target_counts_D,
        base,
        target.rounds,
        states_checksum(records),
    )
