"""Speed of capture on one node of the cluster: `mads-ray bench throughput`.

ray job submit --working-dir . --entrypoint-num-gpus 1 -- python jobs/throughput.py --model ORG/NAME
"""

import os
import sys

# select.py in this folder must not be taken for Python's own module of that name.
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(__file__)]

from mads_ray.cli import app  # noqa: E402

if __name__ == "__main__":
    app(["bench", "throughput", *sys.argv[1:]], prog_name="jobs/throughput.py")
