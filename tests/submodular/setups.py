"""The reference's examples as the package takes them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple

import numpy as np
from reference import Bounded, Example, Problem, arrays, count, dense

from mads_ray.submodular.greedy import Bounds
from mads_ray.submodular.objective import Objective, make_objective
from mads_ray.submodular.rows import FeatureRows


def setup(problem: Problem, examples: Sequence[Example]) -> tuple[FeatureRows, Objective]:
    return FeatureRows(*arrays(problem, examples)), make_objective(*astuple(problem))


def zipf(problem: Problem, n: int, seed: int) -> tuple[FeatureRows, Objective]:
    return FeatureRows(*zipf_arrays(problem, n, seed)), make_objective(*astuple(problem))


def uids(rows: FeatureRows) -> list[str]:
    return [f"{high:016x}{low:016x}" for high, low in rows.uids_N2.tolist()]


def counts_of(problem: Problem, examples: Iterable[Example]) -> np.ndarray:
    """By the reference."""
    return np.array(dense(problem, count(examples)), np.int32)


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


def zipf_arrays(problem: Problem, n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Large synthetic rows: zipfian neurons and nodes, drawn without replacement in a layer."""
    rng = np.random.default_rng(seed)
    log_p = -np.log(np.arange(1, problem.width + 1))
    layers = []
    for _ in range(problem.layers):
        keys = log_p + rng.gumbel(size=(n, problem.width))
        layers.append(np.sort(np.argpartition(-keys, problem.per_layer)[:, : problem.per_layer]))
    start, nodes = 0, []
    for size in problem.level_sizes:
        p = 1 / np.arange(1, size + 1)
        nodes.append(start + rng.choice(size, n, p=p / p.sum()))
        start += size
    return (
        rng.integers(0, 2**64, (n, 2), np.uint64),
        rng.integers(10, 200, n).astype(np.int32),
        np.concatenate(layers, axis=1).astype(np.uint16),
        np.stack(nodes, axis=1).astype(np.int32),
    )
