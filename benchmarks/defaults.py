"""What the defaults of balance, sketch, tree and weights rest on: tasks reached over pools.

For every pool (a run folder with labels) and every variant, which differs from the defaults in one
thing: tasks that lazy greedy's core set reaches at 5 and 15%, the share of template, junk or source
rows, mean tokens by the pool's; mean and standard error over seeds of k-means and ties. Sketches
other than the stored ones are made again from the stored neurons, by the truncated SVD that
calibration uses, fitted on the pool itself: "root-256" is what the stored ones are.

  python benchmarks/pools.py --output DIR && python benchmarks/repeating_pools.py --output DIR
  mads-ray capture --input DIR/B.jsonl --label-field task -o RUNS/B     # and so on
  python benchmarks/defaults.py --runs RUNS/* [--seeds 6] [--store NAME]

The last line of the output is JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from balance_peers import random
from captured_pools import Pool, Reached, measure_pools
from core_sets import REPRESENTATIVE, Variant, core_set

DRAWS = 120
VARIANTS = (
    Variant(),
    REPRESENTATIVE,
    Variant(balance=0),
    Variant(sketch="stored"),
    Variant(sketch="unit-256"),
    Variant(sketch="root-256"),
    Variant(sketch="unit-128"),
    Variant(sketch="root-128"),
    Variant(sketch="unit-256", layers="middle"),
    Variant(sketch="unit-256", layers="middle", balance=0),
    Variant(alike=0.2),
    Variant(alike=0.25),
    Variant(alike=0.3),
    Variant(prior=0.001),
    Variant(prior=0.005),
    Variant(prior=0.01),
    Variant(least=1),
    Variant(least=8),
    Variant(bins=0),
    Variant(bins=1),
    Variant(bins=4),
    Variant(landmarks=256),
    Variant(landmarks=1024),
    Variant(landmarks=4096),
    Variant(share=1),
    Variant(share=3),
    Variant(levels=(16, 64, 256)),
    Variant(neurons="alike"),
)


def main() -> None:
    measure_pools("defaults", __doc__.split("\n")[0], measured)


def measured(pool: Pool, seeds: int) -> Iterator[tuple[str, Reached]]:
    """(variant, what it reached by run and budget)."""
    for variant in VARIANTS:
        picks = [core_set(pool, variant, seed) for seed in range(seeds)]
        reached = [[pool.reached(p[:size]) for size in pool.sizes] for p in picks]
        yield variant.differs or "default", reached
    yield "random", [[pool.reached(random(pool, k, i)) for k in pool.sizes] for i in range(DRAWS)]


if __name__ == "__main__":
    main()
