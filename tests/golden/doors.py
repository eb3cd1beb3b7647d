"""The pipeline as the golden check sees it. Where these move, only this file follows."""

from mads_ray import RunConfig, load_config, run, select
from mads_ray import capture_states as capture
from mads_ray.pipeline.runtime.local import local_ray

__all__ = ["RunConfig", "capture", "load_config", "local_ray", "run", "select"]
