"""`python -m mads_ray.finetune run --config grid.yaml --minutes 9`: repeat until it exits with 0.

It needs torch, transformers, numpy and pyarrow. The last line of its output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import torch

from mads_ray.errors import MadsRayError
from mads_ray.finetune import table
from mads_ray.finetune.config import load_grid
from mads_ray.finetune.grid import Grid, run
from mads_ray.printable import log_plainly, printable, shortened

LEFT = 3  # exit code: cells are left


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all done, 3 cells are left (run it again), 2 an error that a user can mend."""
    options = _parser().parse_args(argv)
    log_plainly(logging.INFO)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        code, result = (_run if options.command == "run" else _table)(options)
    except MadsRayError as e:
        print(printable(f"error: {shortened(str(e))}"), file=sys.stderr)
        return 2
    except torch.cuda.OutOfMemoryError:
        print(
            "error: out of device memory; lower training.batch_tokens, "
            "evaluation.batch_tokens or evaluation.generate_batch",
            file=sys.stderr,
        )
        return 2
    print(json.dumps(result))
    return code


def _run(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    outcome = run(load_grid(options.config), options.minutes, options.only)
    if outcome.left:
        print(f"{len(outcome.left)} cells are left; run the same command again:")
        print(printable("\n".join(f"  {name}" for name in outcome.left)))
    return LEFT if outcome.left else 0, {
        "before": len(outcome.before),
        "done": len(outcome.done),
        "left": len(outcome.left),
    }


def _table(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    config = load_grid(options.config)
    grid = Grid(config)
    results = list(grid.results().values())
    text, files = table.write(config, results, len(grid.cells))
    print(printable(text))
    return 0, {"cells": len(grid.cells), "done": len(results), "files": files}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mads_ray.finetune",
        description="Fine-tune small models on core sets and on others, and compare them.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="do the cells that are not yet done")
    runs.add_argument("--minutes", type=float, help="start no cell that would end later")
    runs.add_argument("--only", metavar="PATTERN", help="of names: '*.random-5.equal_steps.*'")
    tables = commands.add_parser("table", help="means and intervals of what is done so far")
    for command in (runs, tables):
        command.add_argument("--config", required=True, help="YAML, see jobs/finetune_grid.yaml")
        command.add_argument("--threads", type=int, help="of the CPU")
    return parser


if __name__ == "__main__":
    sys.exit(main())
