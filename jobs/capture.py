"""Ingest and capture as a Ray job: `mads-ray capture`, so that many selections can follow.

ray job submit --working-dir . -- python jobs/capture.py --config jobs/spot_cluster.yaml
"""

import sys

from mads_ray.cli import app

if __name__ == "__main__":
    app(["capture", *sys.argv[1:]], prog_name="jobs/capture.py")
