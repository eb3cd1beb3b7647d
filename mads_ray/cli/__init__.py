"""The command line: `mads-ray`, which is `python -m mads_ray`."""

from mads_ray.cli.commands import app

__all__ = ["app"]
