"""How a worker opens the model and its journal of a piece of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mads_ray.capture.history import discard
from mads_ray.capture.journal import Journal
from mads_ray.config import CaptureConfig
from mads_ray.errors import IncompleteError
from mads_ray.pipeline.capture.model_tasks import ModelTask
from mads_ray.pipeline.runtime.owner import ended_by_itself, this_process
from mads_ray.pipeline.runtime.tasks import Item
from mads_ray.run_folder import RunFolder
from mads_ray.stored.records import read_marker

if TYPE_CHECKING:
    from mads_ray.capture.opened import ModelSettings, OpenedModel


def model_settings(capture: CaptureConfig, gpus: float = 0.0) -> ModelSettings:
    """Which model to open, and how, on so many GPUs."""
    from mads_ray.capture.engines.engine import EngineOptions
    from mads_ray.capture.opened import ModelSettings

    options = EngineOptions(
        pooling=capture.pooling,
        hook_module=capture.hook_module,
        max_tokens=capture.max_tokens,
        token_budget=capture.batch_tokens,
        memory_share=gpus if 0 < gpus < 1 else 1.0,
        compile=capture.compile,
        tensor_parallel=capture.tensor_parallel,
    )
    return ModelSettings(
        model=capture.model,
        revision=capture.revision,
        dtype=capture.dtype,
        engine=capture.engine,
        tokens=capture.token_scope,
        options=options,
    )


def open_configured(capture: CaptureConfig, cpus: int, gpus: float) -> OpenedModel:
    """The configured model, on a worker's share of a node."""
    from mads_ray.capture.opened import open_model

    return open_model(model_settings(capture, gpus), threads=cpus)


def refuse_sick_node(journal: Journal, key: str, rows: int) -> None:
    """Raise IncompleteError when too many rows ended their process to be the reason themselves."""
    poison = journal.history.poison
    if len(poison) > max(8, rows // 50):
        raise IncompleteError(
            f"{key}: {len(poison)} of {rows} rows ended the process that had them, which is no "
            f"matter of single rows: {next(iter(poison.values()))}. Look at the nodes; to try "
            "these rows again, remove the shard's files in states/open"
        )


def committed_result(folder: RunFolder, task: ModelTask) -> Item | None:
    """What the work on a task returned, if it is done; then nobody needs its journals."""
    result: Item | None = read_marker(task.marker, dict)
    if result is not None:
        discard(folder.open, task.key)
    return result


def journal_of(folder: RunFolder, task: ModelTask) -> Journal:
    """This process's journal of a task."""
    return Journal(folder.open, task.key, this_process(), ended_by_itself)
