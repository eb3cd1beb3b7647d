"""Select small, diverse core sets for instruction tuning by activation states, on Ray.

Seven verbs make and look at core sets: `run`, `capture_states`, `select`, `inspect_input`,
`evaluate`, `explain` and `rerender`. Each is also a command of `mads-ray`.

>>> from mads_ray import RunConfig, run
>>> result = run(RunConfig(input=("data/*.jsonl",), output="runs/mine"))
>>> result.counts.selected
6
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mads_ray.config import (
        CaptureConfig,
        ClusteringConfig,
        CorpusConfig,
        RayConfig,
        RunConfig,
        SelectionConfig,
        load_config,
    )
    from mads_ray.corpus.inspection import Inspection, inspect_input
    from mads_ray.errors import (
        ConfigError,
        CorpusError,
        IncompleteError,
        MadsRayError,
        MismatchError,
        ModelError,
    )
    from mads_ray.evaluation.evaluate import evaluate
    from mads_ray.finished_run import FinishedRun, RunResult
    from mads_ray.pipeline.explain import Explanation, explain
    from mads_ray.pipeline.run import capture_states, run, select
    from mads_ray.report.render import rerender
    from mads_ray.states import CapturedStates

__version__ = "0.1.0"  # here, because a job's working_dir may hold the package uninstalled

__all__ = [
    "CaptureConfig",
    "CapturedStates",
    "ClusteringConfig",
    "ConfigError",
    "CorpusConfig",
    "CorpusError",
    "Explanation",
    "FinishedRun",
    "IncompleteError",
    "Inspection",
    "MadsRayError",
    "MismatchError",
    "ModelError",
    "RayConfig",
    "RunConfig",
    "RunResult",
    "SelectionConfig",
    "capture_states",
    "evaluate",
    "explain",
    "inspect_input",
    "load_config",
    "rerender",
    "run",
    "select",
]

# No verb is named like a folder of the package: `mads_ray.capture` is that folder, once loaded.
_HOMES = {
    "config": (
        *("CaptureConfig", "ClusteringConfig", "CorpusConfig", "RayConfig", "RunConfig"),
        *("SelectionConfig", "load_config"),
    ),
    "corpus.inspection": ("Inspection", "inspect_input"),
    "errors": (
        *("ConfigError", "CorpusError", "IncompleteError", "MadsRayError", "MismatchError"),
        "ModelError",
    ),
    "evaluation.evaluate": ("evaluate",),
    "finished_run": ("FinishedRun", "RunResult"),
    "pipeline.explain": ("Explanation", "explain"),
    "pipeline.run": ("capture_states", "run", "select"),
    "report.render": ("rerender",),
    "states": ("CapturedStates",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # The capture engine must import where there is no Ray and no pydantic: load on first use.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
