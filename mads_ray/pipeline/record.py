"""Stage 7: write the report, and run.json, which marks a run as finished."""

from __future__ import annotations

import datetime
import logging
import platform
import shutil
from dataclasses import asdict
from typing import Any

from mads_ray import __version__, runlog
from mads_ray.doctor import versions_of
from mads_ray.errors import IncompleteError
from mads_ray.finished_run import FinishedRun, RunResult
from mads_ray.ledger import Counts
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.density.told import density_told, without_texts
from mads_ray.pipeline.reading import reading_of
from mads_ray.pipeline.runtime.prometheus import observe
from mads_ray.pipeline.select.ground_set import GroundSet
from mads_ray.pipeline.select.stage import CoreSet
from mads_ray.report.data import report_data
from mads_ray.report.render import render_report
from mads_ray.report.selection_tally import SelectionTally
from mads_ray.run_folder import RunFolder
from mads_ray.states import CapturedStates
from mads_ray.storage import write_json
from mads_ray.stored.files import known_files

log = logging.getLogger(__name__)

_CERTIFIED_BY = (
    "No core set within the budget has a larger f than opt_upper_bound: neurons and large clusters "
    "at the core set's own prices (weak duality), smaller clusters exactly. This is about the "
    "coverage f, not about a model trained on the core set. Floors and caps are left out, so where "
    "they bind, and for few rows, the core set may be closer to the best than certified_ratio says."
)
_KEY_METRICS = ("f", "f_random_mean", "lift_at_least", "certified_ratio", "neuron_coverage")


def report(run: Run, ground: GroundSet, core: CoreSet, tally: SelectionTally) -> dict[str, Any]:
    """Write report.json and report.html; return the content of run.json.

    Raises IncompleteError where a row was lost or counted twice.
    """
    states, density = ground.states, ground.density
    assert density is not None
    counts = counts_of(states, tally)
    reading, told = reading_of(states), density_told(states, density, tally)
    methods = core.metrics["methods"]
    data = report_data(states.folder, ground.tree, core.curve, methods, tally, reading, told)
    write_json(run.output.report_data, data)
    summary = _summary(run, states, core, counts, tally.tokens)
    summary["selected_checksum"] = tally.selected_checksum
    summary["made"] = tally.made | _arrays_made(run.output)
    summary |= {"reading": reading, "density": without_texts(told)}
    render_report(run.output.report_html, summary, data)
    return summary


def finish(run: Run, summary: dict[str, Any]) -> RunResult:
    """Write run.json, log the result and return it."""
    summary["timings"] = run.clock.timings()
    write_json(run.output.run_json, summary)
    shutil.rmtree(run.output.rounds, ignore_errors=True)
    metrics, counts, timings = summary["metrics"], summary["counts"], summary["timings"]
    observe("mads_ray_f", metrics["f"])
    observe("mads_ray_lift_at_least", metrics["lift_at_least"])
    key = {name: metrics[name] for name in _KEY_METRICS}
    runlog.write("run_finished", counts=counts, metrics=key, timings=timings)
    log.info(
        "selected %s of %s examples in %s, at least %.1f%% of the best possible coverage",
        *(f"{counts['selected']:,}", f"{counts['examples']:,}", f"{timings['total']:.0f} s"),
        100 * metrics["certified_ratio"],
    )
    return FinishedRun(run.output, summary).result()


def _arrays_made(output: RunFolder) -> dict[str, Any]:
    """The arrays in selection/, as run.json knows them."""
    return known_files(output.root, list(output.selection.glob("*.np[yz]")))


def counts_of(states: CapturedStates, tally: SelectionTally) -> Counts:
    """Count the rows of the whole run.

    Raises IncompleteError where a row was lost or counted twice.
    """
    failed = sum(r.quarantined for r in states.records)
    counts = Counts(
        read=states.ledger.read,
        quarantined=states.ledger.quarantined + failed,
        duplicates=states.ledger.duplicates,
        examples=tally.rows,
        selected=tally.selected,
    )
    if counts.read != counts.quarantined + counts.duplicates + counts.examples:
        raise IncompleteError(f"rows were lost or counted twice: {counts}")
    return counts


def _summary(
    run: Run, states: CapturedStates, core: CoreSet, counts: Counts, tokens: int
) -> dict[str, Any]:
    """The content of run.json without `reading`. `tokens`: the sum over all examples."""
    manifest, records = states.manifest, states.records
    padded = manifest.calibration_padded_tokens + sum(r.padded_tokens for r in records)
    computed = manifest.calibration_tokens + sum(r.tokens for r in records)
    return {
        "mads_ray": __version__,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": runlog.command_line(),
        "mode": core.mode,
        "config": run.config.model_dump(mode="json"),
        "seed": run.config.seed,
        "states_from": str(states.folder.root),
        "states": asdict(manifest),
        "states_checksum": states.checksum,
        "counts": asdict(counts),
        "files": _files(states),
        "metrics": core.metrics,
        "certificate": {
            "opt_upper_bound": core.metrics["opt_upper_bound"],
            "certified_ratio": core.metrics["certified_ratio"],
            "method": _CERTIFIED_BY,
        },
        "capture": {
            "tokens": tokens,
            "padding_waste": round(1 - computed / padded, 4) if padded else 0.0,
            "cut_rows": sum(r.cut_rows for r in records),
            "repeated_rows": sum(r.repeated for r in records),
            "worker_seconds": round(sum(r.seconds for r in records), 1),
        },
        "timings": run.clock.timings(),
        "versions": versions_of(),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
    }


def _files(states: CapturedStates) -> dict[str, Any]:
    """How many files were read, which were left out, and which were broken."""
    ledger = states.ledger
    return {
        "read": len(states.source_files) - len(ledger.lost),
        "left_out": [asdict(x) for x in ledger.left_out],
        "lost": [asdict(x) for x in ledger.lost],
    }
