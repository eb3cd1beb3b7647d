"""Our core sets of captured pools, with every choice of weights, tree and sketch as a parameter.

All goes through the project's own functions. Where one of its constants is the choice (how alike,
the prior, bins of lengths), the constant is another for the time of a call.

N rows, K picks, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
from captured_pools import I64, Pool, sketches_of

from mads_ray.arrays import I32
from mads_ray.clustering import density, landmarks
from mads_ray.clustering.density import BinSums, weights_by_count
from mads_ray.clustering.landmarks import Landmarks, directions_of, threshold
from mads_ray.clustering.summaries import SketchSummary
from mads_ray.clustering.tree import ClusterTree, build_tree, default_levels
from mads_ray.submodular.greedy import lazy_greedy
from mads_ray.submodular.objective import FeatureSpace, make_objective
from mads_ray.submodular.problem import Budget, Problem
from mads_ray.submodular.rows import FeatureRows

ITERATIONS = 20
_OCTAVES = 31


@dataclass(frozen=True)
class Variant:
    """How to weigh rows and select. What is not named is the project's default.

    Args:
        balance: exponent of the weights, `selection.balance`.
        sketch: "unit", the stored one at unit length; "stored", by the root of its length; or one
            made again, such as "root-256".
        alike: cosine above which rows are alike.
        prior: share of the landmarks that is added to the like ones.
        least: the prior in landmarks is no less.
        bins: bins of lengths in an octave of tokens; 0: none.
        landmarks: rows among which like rows are counted, at most.
        share: weight of the tree by that of neurons.
        neurons: "pool", by the root of the pool's counts, or "alike".
        levels: clusters of each level of the tree; None: powers of two.
        layers: "all", or "middle" for the middle third of the layers.
        curve: what a feature is worth by how many rows have it.
    """

    balance: float = 1.0
    sketch: str = "unit"
    alike: float = landmarks.ALIKE
    prior: float = density.PRIOR
    least: float = density.LEAST_PRIOR
    bins: float = 2
    landmarks: int = landmarks.LANDMARKS
    share: float = 2.0
    neurons: str = "pool"
    levels: tuple[int, ...] | None = None
    layers: str = "all"
    curve: str = "sqrt"

    @property
    def differs(self) -> str:
        """What is not the default, as text."""
        default = Variant()
        mine = {k: v for k, v in vars(self).items() if v != getattr(default, k)}
        return ", ".join(f"{k} {v}" for k, v in mine.items())


REPRESENTATIVE = Variant(balance=0, sketch="stored")  # the pool's proportions


def core_set(pool: Pool, variant: Variant, seed: int) -> I64:
    """Picks of the largest budget, best first (K,). Prefixes are core sets of smaller ones."""
    pool = prepared(pool, variant)
    weights_N = row_weights(pool, variant)
    tree = tree_of(pool, variant.sketch, weights_N, seed, variant.levels)
    leaves_N, _ = tree.assign(pool.sketches[variant.sketch])
    rows = FeatureRows(pool.uids_N2, pool.tokens_N, pool.neurons_NA, tree.paths_CP[leaves_N])
    m = pool.manifest
    space = FeatureSpace(m.layers, m.width, m.neurons_per_layer, tree.level_sizes)
    objective = make_objective(variant.curve, space, variant.share)
    if variant.neurons == "pool":
        shown_D = objective.weighted_counts(rows, weights_N)
        objective = make_objective(variant.curve, space, variant.share, None, shown_D)
    budget = Budget(rows=max(pool.sizes))
    return lazy_greedy(rows, Problem(objective, budget, seed=seed)).picks


def prepared(pool: Pool, variant: Variant) -> Pool:
    """The pool with the layers and the sketch of a variant. Sketches made again are kept."""
    m = pool.manifest
    layers = range(m.layers)
    if variant.layers == "middle":
        layers = layers[m.layers // 3 : 2 * m.layers // 3]
        columns = slice(layers.start * m.neurons_per_layer, layers.stop * m.neurons_per_layer)
        manifest, kept = replace(m, layers=len(layers)), _MIDDLE.setdefault(pool.name, {})
        pool = replace(
            pool,
            manifest=manifest,
            neurons_NA=np.ascontiguousarray(pool.neurons_NA[:, columns]),
            sketches=kept,
        )
    if variant.sketch not in pool.sketches:
        sizes = tuple(s for s in (128, 256) if s < len(pool))
        pool.sketches.update(sketches_of(pool.neurons_NA, m.width, len(layers), sizes))
    return pool


_MIDDLE: dict[str, dict[str, np.ndarray]] = {}  # sketches of the middle layers, by pool


def tree_of(
    pool: Pool, sketch: str, weights_N: I64, seed: int, levels: tuple[int, ...] | None = None
) -> ClusterTree:
    """The tree over weighted rows."""
    n = len(pool)
    sizes = [x for x in levels or default_levels(n) if x <= n // 2]
    summary = SketchSummary(pool.sketches[sketch], weights_N)
    return build_tree(summary, sizes, ITERATIONS, seed)


def alike(pool: Pool, variant: Variant) -> tuple[I32, int]:
    """How many landmarks are like each row, int32 (N,), and how many landmarks there are."""
    # Of the stored sketch also where the tree has it at unit length: rounded once, as in a run.
    sketch = "stored" if variant.sketch == "unit" else variant.sketch
    directions_NS = directions_of(pool.sketches[sketch])
    with constants(variant):
        first = np.flatnonzero(pool.uids_N2[:, 0] <= threshold(len(pool)))
        places_M2 = np.stack([np.zeros(len(first)), first], axis=1).astype(np.int32)
        sample = Landmarks(pool.uids_N2[first], directions_NS[first], places_M2)
        return sample.count_alike(0, directions_NS), len(sample)


def row_weights(pool: Pool, variant: Variant) -> I64:
    """Weight of each row, int64 (N,)."""
    if not variant.balance:
        return np.ones(len(pool), np.int64)
    alike_N, sample = alike(pool, variant)
    with constants(variant):
        weights_C = weights_by_count(sample, variant.balance)
        sums = BinSums.of(alike_N, pool.tokens_N, weights_C)
        return sums.weights(alike_N, pool.tokens_N, weights_C)


@contextmanager
def constants(variant: Variant) -> Iterator[None]:
    """The project's constants as a variant has them."""
    bins = max(1, math.ceil(_OCTAVES * variant.bins))
    edges = [math.ceil(2 ** (b / (variant.bins or 1)) - 1e-9) for b in range(1, bins)]
    of = {
        density: {
            "PRIOR": variant.prior,
            "LEAST_PRIOR": variant.least,
            "_BINS": bins,
            "_EDGES": np.array(edges, np.int64),
        },
        landmarks: {"ALIKE": variant.alike, "LANDMARKS": variant.landmarks},
    }
    with ExitStack() as stack:
        for module, named in of.items():
            for name, value in named.items():
                stack.enter_context(patch.object(module, name, value))
        yield
