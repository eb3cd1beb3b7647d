"""Tokenising as a stage of its own, where the models are faster than a core that tokenises.

A core tokenises about 1,500 rows of 200 tokens in a second; a small model on a GPU takes more. So
where workers have GPUs, processes on CPUs tokenise whole shards ahead of them. On CPUs the workers
do it themselves, in a thread beside the model.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import ray

from mads_ray.capture.history import discard
from mads_ray.capture.journal import Journal
from mads_ray.config import CaptureConfig, RayConfig
from mads_ray.pipeline.capture.opening import model_settings
from mads_ray.pipeline.runtime.data_stream import Preparation
from mads_ray.pipeline.runtime.owner import ended_by_itself, this_process
from mads_ray.pipeline.runtime.session import PoolShape
from mads_ray.pipeline.runtime.tasks import Item
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest
from mads_ray.stored.examples import read_examples

_A_WORKER = 2  # processes for each GPU worker, where there are CPUs


def tokenisers(
    config: RayConfig, capture: CaptureConfig, manifest: StatesManifest, folder: RunFolder
) -> Callable[[PoolShape], Preparation | None]:
    """The stage before a pool of models; None where the workers tokenise themselves."""

    def before(shape: PoolShape) -> Preparation | None:
        workers = config.tokenise_workers
        if workers is None:
            spare = int(ray.cluster_resources().get("CPU", 1.0)) - 1 - shape.workers * shape.cpus
            workers = max(0, min(_A_WORKER * shape.workers, spare)) if shape.gpus else 0
        if not workers:
            return None
        return Preparation("tokenise", tokeniser, (capture, manifest, folder), workers)

    return before


def tokeniser(
    capture: CaptureConfig, manifest: StatesManifest, folder: RunFolder
) -> Callable[[Item], pa.Buffer]:
    """Renders and tokenises a shard: a function from its item to `tokenised_bytes`.

    Raises MismatchError where its template is not that of the states.
    """
    from mads_ray.capture.opened import open_renderer
    from mads_ray.capture.tokenised import tokenised_bytes

    renderer = open_renderer(model_settings(capture))
    manifest.require({"template": renderer.digest}, folder.states)

    def tokenise(item: Item) -> pa.Buffer:
        messages = read_examples(folder.shard_file(item["shard"]), ["messages"])
        key = f"text-{item['shard']:05d}-{manifest.calibration[:8]}"
        with Journal(folder.open, key, this_process(), ended_by_itself) as journal:
            tokens = tokenised_bytes(renderer, messages.column(0).to_pylist(), journal)
        discard(folder.open, key)
        return tokens

    return tokenise
