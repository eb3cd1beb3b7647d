"""What Ray costs: the capture stage against a bare loop over the same shards.

Both start a process, load the model and capture every shard with the same number of threads. The
loop calls the same function as Ray's actors do.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor

from mads_ray.config import CaptureConfig, RunConfig
from mads_ray.errors import ConfigError
from mads_ray.ledger import CorpusLedger
from mads_ray.pipeline.capture.calibrate import calibrated
from mads_ray.pipeline.capture.capturer import capturer
from mads_ray.pipeline.capture.stage import capture as capture_stage
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.ingest import find_input, ingest
from mads_ray.pipeline.runtime.progress import Clock
from mads_ray.pipeline.runtime.session import PoolShape, pool_shape, ray_session
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest


def ray_against_a_loop(config: RunConfig) -> tuple[float, float, int]:
    """Time both with one worker: (seconds of the loop, seconds of the stage on Ray, examples run).

    Both leave the corpus's states in `config.output`. Raises ConfigError for a corpus of fewer than
    four times the calibration sample: capture does not run the rows of that sample again.
    """
    config = config.model_copy(update={"ray": config.ray.model_copy(update={"workers": 1})})
    folder = RunFolder(config.output)
    run = Run(config, folder, Clock())
    with ray_session(config.ray):
        found = find_input(config.input, config.corpus, folder)
        ledger = ingest(run, config.corpus, found)
        sampled = config.capture.calibration_rows
        if ledger.examples < 4 * sampled:
            raise ConfigError(f"--ray needs {4 * sampled} examples or more, not {ledger.examples}")
        manifest = calibrated(run, config.capture, ledger)
        sample = folder.root / "sample-kept"
        shutil.copytree(folder.sample, sample)  # the stage ends by removing it
        shape = pool_shape(config.ray, 1, config.capture.tensor_parallel)
        started = time.perf_counter()
        capture_stage(run, config.capture, ledger)
        on_ray = time.perf_counter() - started
        shutil.move(sample, folder.sample)
        for shard in ledger.shards:
            folder.state_marker(shard.shard).unlink()
        started = time.perf_counter()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            process.submit(_loop, config.capture, manifest, folder, ledger, shape).result()
        return time.perf_counter() - started, on_ray, ledger.examples - sampled


def _loop(
    capture: CaptureConfig,
    manifest: StatesManifest,
    folder: RunFolder,
    ledger: CorpusLedger,
    shape: PoolShape,
) -> None:
    work = capturer(capture, manifest, folder, shape.cpus, shape.gpus)
    for shard in ledger.shards:
        work({"shard": shard.shard})
