"""Ingest and capture as a Ray job: `mads-ray capture`, so that many selections can follow.

ray job submit --working-dir . -- python jobs/capture.py --config jobs/spot_cluster.yaml
"""

import os
import sys

# select.py in this folder must not be taken for Python's own module of that name.
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(__file__)]

from mads_ray.cli import app  # noqa: E402

if __name__ == "__main__":
    app(["capture", *sys.argv[1:]], prog_name="jobs/capture.py")
