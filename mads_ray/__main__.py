"""`python -m mads_ray` is `mads-ray`."""

from mads_ray.cli import app

app()
