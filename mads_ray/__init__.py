"""Select small, diverse core sets for instruction tuning by activation states, on Ray.

>>> from mads_ray import RunConfig, run
>>> result = run(RunConfig(input=("data/*.jsonl",), output="runs/mine"))  # doctest: +SKIP
>>> result.counts.selected  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mads_ray.config import RunConfig, load_config
    from mads_ray.errors import MadsRayError
    from mads_ray.finished_run import RunResult
    from mads_ray.pipeline.run import run, select

__version__ = "0.1.0"  # here, because a job's working_dir may hold the package uninstalled
__all__ = ["MadsRayError", "RunConfig", "RunResult", "load_config", "run", "select"]

_HOMES = {
    "MadsRayError": "mads_ray.errors",
    "RunConfig": "mads_ray.config",
    "load_config": "mads_ray.config",
    "RunResult": "mads_ray.finished_run",
    "run": "mads_ray.pipeline.run",
    "select": "mads_ray.pipeline.run",
}


def __getattr__(name: str) -> Any:
    # The capture engine must import where there is no Ray and no pydantic: load on first use.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
