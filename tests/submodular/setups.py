"""The reference's examples as the package takes them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from reference import Bounded, Example, Spec, arrays, count, dense

from mads_ray.submodular.objective import FeatureSpace, Objective, make_objective
from mads_ray.submodular.problem import Bounds
from mads_ray.submodular.rows import FeatureRows


def objective_of(spec: Spec, **counts: np.ndarray) -> Objective:
    space = FeatureSpace(spec.layers, spec.width, spec.per_layer, spec.level_sizes)
    return make_objective(spec.name, space, spec.tree_share, **counts)


def setup(spec: Spec, examples: Sequence[Example]) -> tuple[FeatureRows, Objective]:
    return FeatureRows(*arrays(spec, examples)), objective_of(spec)


def zipf(spec: Spec, n: int, seed: int) -> tuple[FeatureRows, Objective]:
    return FeatureRows(*zipf_arrays(spec, n, seed)), objective_of(spec)


def nested(spec: Spec, examples: Sequence[Example]) -> list[Example]:
    """With the leaves that they have, and the nodes above as in a tree."""
    sizes = spec.level_sizes
    return [replace(e, path=tuple(e.path[-1] * n // sizes[-1] for n in sizes)) for e in examples]


def uids(rows: FeatureRows) -> list[str]:
    return [f"{high:016x}{low:016x}" for high, low in rows.uids_N2.tolist()]


def counts_of(spec: Spec, examples: Iterable[Example]) -> np.ndarray:
    """By the reference."""
    return np.array(dense(spec, count(examples)), np.int32)


def bounds_of(bounded: Bounded) -> Bounds:
    columns = (bounded.low, bounded.high, bounded.partition)
    return Bounds(*(np.array(c, np.int64) for c in columns))


def random_bounded(
    rng: random.Random, sizes: Sequence[int], around: Sequence[Example], slack: int = 2
) -> Bounded:
    """Floors and caps that a set keeps, so that they are feasible."""
    used = Counter(g for e in around for g in e.groups)
    n = sum(sizes)
    low = [max(0, used[g] - rng.randint(0, slack)) for g in range(n)]
    high = [used[g] + rng.randint(0, slack) for g in range(n)]
    return Bounded(
        tuple(low), tuple(high), tuple(t for t, size in enumerate(sizes) for _ in range(size))
    )


def zipf_arrays(spec: Spec, n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Large synthetic rows: zipfian neurons and nodes, drawn without replacement in a layer."""
    rng = np.random.default_rng(seed)
    log_p = -np.log(np.arange(1, spec.width + 1))
    layers = []
    for _ in range(spec.layers):
        keys = log_p + rng.gumbel(size=(n, spec.width))
        layers.append(np.sort(np.argpartition(-keys, spec.per_layer)[:, : spec.per_layer]))
    start, nodes = 0, []
    for size in spec.level_sizes:
        p = 1 / np.arange(1, size + 1)
        nodes.append(start + rng.choice(size, n, p=p / p.sum()))
        start += size
    return (
        rng.integers(0, 2**64, (n, 2), np.uint64),
        rng.integers(10, 200, n).astype(np.int32),
        np.concatenate(layers, axis=1).astype(np.uint16),
        np.stack(nodes, axis=1).astype(np.int32),
    )
