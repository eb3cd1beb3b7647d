"""The whole pipeline as a Ray job: `mads-ray run` with the cluster that the job runs on.

ray job submit --working-dir . -- python jobs/pipeline.py --config jobs/spot_cluster.yaml
"""

import sys

from mads_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]], prog_name="jobs/pipeline.py")
