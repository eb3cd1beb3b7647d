"""Arms of a grid of fine-tunes: core sets and random sets of a pool, and the grid.yaml of them.

ray job submit --working-dir . -- python jobs/finetune_arms.py --pool /data/pool.jsonl -o /data/arms

Then, with or without Ray: python jobs/finetune_eval.py run --config /data/arms/grid.yaml
"""

import argparse
import json
import logging
import sys

from mads_ray import CaptureConfig, MadsRayError
from mads_ray.config import METHODS
from mads_ray.finetune.arms import Plan, prepare
from mads_ray.printable import log_plainly, printable, shortened


def main() -> int:
    """0: grid.yaml is written; 2: what a user can mend."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    plan = Plan()
    add = parser.add_argument
    add("--pool", nargs="+", required=True, help="JSON lines, or other corpora")
    add("-o", "--output", required=True, help="folder of states, arms and grid.yaml")
    add("--held-out", nargs="+", default=(), help="other rows, for the loss")
    add("--share", type=float, default=plan.held_out, help="of the pool, held out without them")
    add("--label-field", help="names a row's task: a loss for each")
    add("--model", default=CaptureConfig().model, help="that selects")
    add("--tune", nargs="+", help="models that are tuned; default: the same")
    add("--budgets", type=float, nargs="+", default=plan.budgets)
    add("--methods", nargs="+", choices=METHODS, default=plan.methods)
    add("--seeds", type=int, default=len(plan.seeds), help="how many")
    add("--steps", type=int, default=plan.steps, help="of the regime equal_steps; 0: without it")
    add("--epochs", type=float, default=plan.epochs, help="of equal_epochs; 0: without it")
    add("--no-full", action="store_true", help="without the whole pool as an arm")
    add("--max-tokens", type=int, default=plan.max_tokens, help="of an example")
    add("--tasks", metavar="FOLDER", help="TASK.jsonl.gz for multiple choice; default: none")
    add("--limit", type=int, default=plan.limit, help="questions of a task, at most")
    add("--generate", nargs="+", default=(), choices=("gsm8k", "ifeval"), help="in writing")
    options = parser.parse_args()
    log_plainly(logging.WARNING)
    logging.getLogger("mads_ray").setLevel(logging.INFO)
    try:
        plan = Plan(
            budgets=tuple(options.budgets),
            methods=tuple(options.methods),
            seeds=tuple(range(options.seeds)),
            models=tuple(options.tune or [options.model]),
            steps=options.steps or None,
            epochs=options.epochs or None,
            full=not options.no_full,
            max_tokens=options.max_tokens,
            held_out=options.share,
            tasks=options.tasks,
            limit=options.limit,
            generate=tuple(options.generate),
        )
        captured = CaptureConfig(model=options.model)
        grid = prepare(
            options.pool, options.output, plan, options.held_out, captured, options.label_field
        )
    except MadsRayError as e:
        print(printable(f"error: {shortened(str(e))}"), file=sys.stderr)
        return 2
    print(json.dumps({"grid": str(grid)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
