"""Stage 3: capture the activation states of every shard that has no commit marker."""

from __future__ import annotations

import logging
import shutil
from contextlib import closing

from mads_ray.config import CaptureConfig
from mads_ray.ledger import CorpusLedger
from mads_ray.pipeline.capture.calibrate import calibrated
from mads_ray.pipeline.capture.calibration_from import calibration_source, settings_of_source
from mads_ray.pipeline.capture.capturer import capturer
from mads_ray.pipeline.capture.model_tasks import on_models, shard_task
from mads_ray.pipeline.capture.tokeniser import tokenisers
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.reading import tell_capture
from mads_ray.pipeline.runtime.owner import why_ended
from mads_ray.pipeline.runtime.progress import Progress
from mads_ray.states import CapturedStates, StatesManifest

log = logging.getLogger(__name__)


def capture(run: Run, capturing: CaptureConfig, ledger: CorpusLedger) -> CapturedStates:
    """Capture the shards that have no commit marker; return the states of the whole corpus.

    Raises MismatchError when the folder holds states of another model or calibration, or when
    `calibration_from` names a calibration of other settings. Raises ConfigError when that folder
    holds no calibration.
    """
    folder = run.output
    source = calibration_source(capturing, folder)
    if source is not None:
        manifest = StatesManifest.load(source.manifest)
        capturing = settings_of_source(capturing, manifest, source)
    manifest = calibrated(run, capturing, ledger, source)
    done = folder.state_records(ledger.shards, manifest.calibration)
    present = {r.shard for r in done}
    todo = [s for s in ledger.shards if s.shard not in present]
    progress = Progress("capture", ledger.examples, sum(r.captured + r.quarantined for r in done))
    for shard in todo:  # a marker that does not fit its shard must not look like this run's
        folder.state_marker(shard.shard).unlink(missing_ok=True)
    tasks = [shard_task(folder, s.shard, manifest.calibration) for s in todo]
    before = tokenisers(run.config.ray, capturing, manifest, folder)
    about = (tasks, capturer, manifest)
    with closing(on_models(run, capturing, "capture", *about, before=before)) as results:
        for result in results:
            progress.add(
                result["captured"] + result["quarantined"],
                result["tokens"],
                padded_tokens=result["padded_tokens"],
                quarantined=result["quarantined"],
                at_peak_s=result.get("at_peak_s", 0.0),
                device_s=result["seconds"] * result["gpus"],
            )
            for owner in result.get("lost", ()):
                told = f" ({why})" if (why := why_ended(owner)) else ""
                shard = result["shard"]
                log.warning(
                    "capture: a worker was lost%s; another went on with shard %d", told, shard
                )
    progress.close()
    records = folder.check_states(ledger, manifest.calibration)
    tell_capture(folder, records)
    shutil.rmtree(folder.sample, ignore_errors=True)
    shutil.rmtree(folder.open, ignore_errors=True)
    return CapturedStates(folder, ledger, manifest, records)
