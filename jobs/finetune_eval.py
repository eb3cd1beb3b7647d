"""Fine-tune on core sets and on others, and compare: `python -m mads_ray.finetune`.

ray job submit --working-dir . -- python jobs/finetune_eval.py run --config jobs/finetune_grid.yaml

Or without Ray, in steps of under ten minutes: `run --config ... --minutes 9`, again while it exits
with 3; then `table --config ...`.
"""

import sys

from mads_ray.finetune.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
