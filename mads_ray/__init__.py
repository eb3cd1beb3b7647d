"""Select small, diverse core sets for instruction tuning by activation states, on Ray.

>>> from mads_ray import RunConfig, run
>>> result = run(RunConfig(input=("data/*.jsonl",), output="runs/mine"))  # doctest: +SKIP
>>> result.counts.selected  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from mads_ray.config import RunConfig, load_config
from mads_ray.errors import MadsRayError

if TYPE_CHECKING:
    from mads_ray.pipeline.run import RunResult, capture, run, select

__all__ = ["MadsRayError", "RunConfig", "RunResult", "capture", "load_config", "run", "select"]


def __getattr__(name: str) -> Any:
    # The capture engine must import on machines without Ray, so Ray loads on first use.
    if name in ("RunResult", "capture", "run", "select"):
        from mads_ray.pipeline import run as pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
