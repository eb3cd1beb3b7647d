"""What counting rows like each other adds to a selection of 50,000 rows.

Times `mads-ray select` in processes of their own, in turns, three times each after a first round:
with balance 1, and by another checkout of the project (the commit before there was a balance; else
with balance 0). Synthetic states of SmolLM2's shape (kinds_pool.py).

  git worktree add CHECKOUT COMMIT
  python benchmarks/density_cost.py --old CHECKOUT [--store density_cost]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from kinds_pool import SMOLLM2, pool
from results import store

from mads_ray import FinishedRun
from mads_ray.run_folder import RunFolder

ROWS = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--old", type=Path, help="another checkout")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/mads_ray-density"))
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    result = cost(args)
    if args.store:
        store(args.store, result)
    print(json.dumps(result))


def cost(args: argparse.Namespace) -> dict[str, Any]:
    states = pool(args.cache, ROWS, SMOLLM2)
    sides: dict[str, tuple[list[str], Path | None]] = {"balance 1": (["--balance", "1"], None)}
    against = "balance 0" if args.old is None else "before"
    sides[against] = (["--balance", "0"], None) if args.old is None else ([], args.old)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(4):  # the first round compiles and warms up
        for name, (flags, checkout) in sides.items():
            timings = timed(states, args.cache / "cost", flags, checkout)
            seconds[name].append(timings["total"])
            stages[name].append(timings)
    median = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        "benchmark": "density_cost",
        "rows": ROWS,
        "seconds": {name: values[1:] for name, values in seconds.items()},
        "ratio": round(median["balance 1"] / median[against], 3),
        "against": against,
        "stages": {name: values[-1] for name, values in stages.items()},
    }


def timed(
    states: RunFolder, output: Path, flags: list[str], checkout: Path | None
) -> dict[str, float]:
    """Seconds of the stages of one selection, in a process of its own and an empty folder."""
    subprocess.run(["rm", "-rf", str(output)], check=True)
    tree = Path(__file__).parents[1] if checkout is None else checkout.absolute()
    command = [sys.executable, "-m", "mads_ray", "select", "--states", str(states.root)]
    command += ["--output", str(output), *flags]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run(command, check=True, env=environment, cwd=tree, capture_output=True)
    found: dict[str, float] = FinishedRun.open(output).summary["timings"]
    return found


if __name__ == "__main__":
    main()
