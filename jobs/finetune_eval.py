"""Fine-tune on core sets and on others, and compare: `python -m mads_ray.finetune`.

ray job submit --working-dir . -- python jobs/finetune_eval.py run --config jobs/finetune_grid.yaml

Or without Ray, in steps of under ten minutes: `run --config ... --minutes 9`, again while it exits
with 3; then `table --config ...`.
"""

import os
import sys

# select.py in this folder must not be taken for Python's own module of that name.
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(__file__)]

from mads_ray.finetune.__main__ import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
