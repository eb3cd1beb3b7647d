"""Speed of capture on one node of the cluster: `mads-ray bench throughput`.

ray job submit --working-dir . --entrypoint-num-gpus 1 -- python jobs/throughput.py --model ORG/NAME
"""

import sys

from mads_ray.cli import app

if __name__ == "__main__":
    app(["bench", "throughput", *sys.argv[1:]], prog_name="jobs/throughput.py")
