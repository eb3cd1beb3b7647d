"""Another core set from stored states as a Ray job: `mads-ray select`.

ray job submit --working-dir . -- python jobs/select_core_set.py --states /data/mine -o /data/mine-5
"""

import sys

from mads_ray.cli import app

if __name__ == "__main__":
    app(["select", *sys.argv[1:]], prog_name="jobs/select_core_set.py")
