"""Does taking the pool's density out reach more of it? Our core sets beside other ways to balance.

For every pool (a run folder with labels) and every arm: tasks reached at 5 and 15%, the share of
rows whose label begins with TEMPLATE, JUNK or SOURCE (these are no tasks), and mean tokens by the
pool's. Labels are never shown to a selection. Mean and standard error over seeds of k-means and
ties, over 120 draws where an arm only draws.

  python benchmarks/pools.py --output DIR && python benchmarks/repeating_pools.py --output DIR
  mads-ray capture --input DIR/B.jsonl --label-field task -o RUNS/B     # and so on
  python benchmarks/balance.py --runs RUNS/* [--seeds 6] [--store balance]

Arms: `OURS` below; the peers are in balance_peers.py. "w": with the weights of balance 1. The last
line of the output is JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import balance_peers as peers
from captured_pools import I64, Pool, Reached, measure_pools
from core_sets import REPRESENTATIVE, Variant, alike, core_set, row_weights

DRAWS = 20  # a seed
OURS = {
    "balance 1": Variant(),
    "balance 0.5": Variant(balance=0.5),
    "balance 0": REPRESENTATIVE,
    "balance 1, stored sketch": Variant(sketch="stored"),
    "balance 0, unit sketch": Variant(balance=0),
    "balance 1, alike above 0.25": Variant(alike=0.25),
}
Arm = Callable[..., I64]  # (size=, seed=) -> picks


def main() -> None:
    measure_pools("balance", __doc__.split("\n")[0], measured)


def measured(pool: Pool, seeds: int) -> Iterator[tuple[str, Reached]]:
    """(arm, what it reached by run and budget)."""
    for name, (arm, draws) in arms(pool).items():
        reached = [
            [pool.reached(arm(size=size, seed=seed)) for size in pool.sizes]
            for seed in range(seeds * draws)
        ]
        yield name, reached


def arms(pool: Pool) -> dict[str, tuple[Arm, int]]:
    """(How to select, draws a seed) by name."""
    flat_N, weights_N = np.ones(len(pool), np.int64), row_weights(pool, Variant())
    like_N = 1.0 + alike(pool, Variant())[0]
    found: dict[str, tuple[Arm, int]] = {}
    for name, variant in OURS.items():
        found[name] = ours(pool, variant), 1
    for sketch in ("stored", "unit"):
        for name, w_N in ((f"k-means, {sketch}", flat_N), (f"k-means, {sketch}, w", weights_N)):
            found[name] = partial(peers.kmeans, pool, weights_N=w_N, sketch=sketch), 1
    for name, chance_N in (("DENSITY, 1 / like", 1 / like_N), ("DENSITY, w", weights_N)):
        found[name] = partial(peers.density, chance_N), DRAWS
    for resamplings in (peers.RESAMPLINGS, 0):
        for shape in peers.SHAPES:
            name = f"hierarchical k-means {shape}, {resamplings} resamplings"
            how = {"shape": shape, "resamplings": resamplings}
            found[name] = partial(peers.hierarchical, pool, **how), 1
    found["length-matched random"] = matched(pool, ours(pool, Variant())), DRAWS
    found["random"] = partial(peers.random, pool), DRAWS
    return found


def ours(pool: Pool, variant: Variant) -> Arm:
    """Prefixes of one core set a seed."""
    made = cache(partial(core_set, pool, variant))
    return lambda size, seed: made(seed)[:size]


def matched(pool: Pool, arm: Arm) -> Arm:
    """Random rows as long as those of an arm, which is asked for the draws' seed."""
    return lambda size, seed: peers.length_matched_random(
        pool, arm(size=size, seed=seed // DRAWS), seed
    )


if __name__ == "__main__":
    main()
