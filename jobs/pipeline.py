"""The whole pipeline as a Ray job: `mads-ray run` with the cluster that the job runs on.

ray job submit --working-dir . -- python jobs/pipeline.py --config jobs/spot_cluster.yaml
"""

import os
import sys

# select.py in this folder must not be taken for Python's own module of that name.
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(__file__)]

from mads_ray.cli import app  # noqa: E402

if __name__ == "__main__":
    app(["run", *sys.argv[1:]], prog_name="jobs/pipeline.py")
