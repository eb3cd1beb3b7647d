"""The one configuration of a run. Every command line flag is a field here, and `run.json` holds it.

All models are frozen and refuse unknown fields, so a typing error in a YAML file is an error.
"""

from mads_ray.config.capture import CaptureConfig
from mads_ray.config.cluster import RayConfig
from mads_ray.config.corpus import CorpusConfig, FieldName
from mads_ray.config.run import RunConfig, former_names, load_config, of_stored_run, parse_yaml
from mads_ray.config.selection import METHODS, ClusteringConfig, Method, SelectionConfig

__all__ = [
    "METHODS",
    "CaptureConfig",
    "ClusteringConfig",
    "CorpusConfig",
    "FieldName",
    "Method",
    "RayConfig",
    "RunConfig",
    "SelectionConfig",
    "former_names",
    "load_config",
    "of_stored_run",
    "parse_yaml",
]
