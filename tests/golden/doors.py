"""The pipeline as the golden check sees it. Where these move, only this file follows."""

from mads_ray import RunConfig, load_config, run, select
from mads_ray.pipeline.local import local_ray
from mads_ray.pipeline.run import capture

__all__ = ["RunConfig", "capture", "load_config", "local_ray", "run", "select"]
