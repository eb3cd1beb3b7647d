"""Another core set from stored states as a Ray job: `mads-ray select`.

ray job submit --working-dir . -- python jobs/select.py --states /data/mine --output /data/mine-5
"""

import os
import sys

# select.py in this folder must not be taken for Python's own module of that name.
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(__file__)]

from mads_ray.cli import app  # noqa: E402

if __name__ == "__main__":
    app(["select", *sys.argv[1:]], prog_name="jobs/select.py")
