"""A slow, independent reference: examples with tuples of features, counted in plain dicts.

It shares no code with the package. `arrays` lays examples out as the package's row arrays.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from hypothesis import settings

UNIT = 2**20
OBJECTIVES = ("sqrt", "log1p", "union", "cap:2")
MASK = 2**64 - 1

quick = settings(max_examples=80, deadline=None)
Feature = tuple[str, int, int]  # kind, layer or level, number within it


@dataclass(frozen=True)
class Problem:
    """Fields in the order of make_objective's parameters."""

    name: str
    layers: int
    width: int
    per_layer: int
    level_sizes: tuple[int, ...]
    tree_share: float
    most_rows: int


@dataclass(frozen=True)
class Example:
    uid: str
    tokens: int
    neurons: tuple[tuple[int, ...], ...]  # a tuple a layer
    path: tuple[int, ...]  # number within each level

    @property
    def features(self) -> list[Feature]:
        neurons = [("neuron", n, j) for n, layer in enumerate(self.neurons) for j in layer]
        return neurons + [("node", level, j) for level, j in enumerate(self.path)]


def curve(name: str, c: int) -> float:
    if name == "sqrt":
        return math.sqrt(c)
    if name == "log1p":
        return math.log1p(c)
    return float(min(c, 1 if name == "union" else int(name[4:])))


@cache
def marginal(problem: Problem, kind: str, m: int) -> int:
    """Value of the (m+1)-th example that holds a feature, in units."""
    weight = 1.0
    if kind == "node":
        active = problem.layers * problem.per_layer
        weight = problem.tree_share * active / len(problem.level_sizes)
    return round((curve(problem.name, m + 1) - curve(problem.name, m)) * weight * UNIT)


def count(examples: Iterable[Example]) -> Counter[Feature]:
    return Counter(f for e in examples for f in e.features)


def value(problem: Problem, examples: Iterable[Example]) -> int:
    counts = count(examples)
    return sum(marginal(problem, f[0], m) for f, c in counts.items() for m in range(c))


def gain(problem: Problem, example: Example, counts: Counter[Feature]) -> int:
    return sum(marginal(problem, f[0], counts[f]) for f in example.features)


def feature_index(problem: Problem, feature: Feature) -> int:
    kind, group, j = feature
    if kind == "neuron":
        return group * problem.width + j
    return problem.layers * problem.width + sum(problem.level_sizes[:group]) + j


def hash64(uid: str, seed: int, stream: int = 0) -> int:
    """SplitMix64's finaliser over both halves of a uid."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    key = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03) & MASK
    return mix(mix(int(uid[:16], 16) ^ mix(key)) ^ int(uid[16:], 16))


def naive_greedy(
    problem: Problem,
    examples: Sequence[Example],
    seed: int,
    rows: int | None = None,
    tokens: int | None = None,
) -> list[tuple[str, int]]:
    """Every remaining example that fits is tried at every step."""
    left = sorted(examples, key=lambda e: (hash64(e.uid, seed), e.uid))
    counts: Counter[Feature] = Counter()
    spent = 0
    picked: list[tuple[str, int]] = []
    while rows is None or len(picked) < rows:
        left = [e for e in left if tokens is None or spent + e.tokens <= tokens]
        if not left:
            break
        best = max(left, key=lambda e: gain(problem, e, counts))  # the first of equals
        picked.append((best.uid, gain(problem, best, counts)))
        counts.update(best.features)
        spent += best.tokens
        left.remove(best)
    return picked


def best_value(
    problem: Problem,
    examples: Sequence[Example],
    rows: int | None = None,
    tokens: int | None = None,
) -> int:
    """The optimum, by trying every subset."""
    most = len(examples) if rows is None else min(rows, len(examples))
    subsets = itertools.chain.from_iterable(
        itertools.combinations(examples, n) for n in range(most + 1)
    )
    return max(
        value(problem, s) for s in subsets if tokens is None or sum(e.tokens for e in s) <= tokens
    )


def random_problem(rng: random.Random, n: int, name: str | None = None) -> Problem:
    width = rng.randint(2, 6)
    return Problem(
        name or rng.choice(OBJECTIVES),
        rng.randint(1, 3),
        width,
        rng.randint(1, min(3, width)),
        rng.choice([(1,), (3,), (2, 4), (1, 2, 5)]),
        rng.choice([0.0, 0.5, 1.3]),
        n,
    )


def random_examples(rng: random.Random, problem: Problem, n: int) -> list[Example]:
    """Few neurons and repeated rows, so that gains tie often."""
    out: list[Example] = []
    for _ in range(n):
        uid = f"{rng.getrandbits(128):032x}"
        if out and rng.random() < 0.2:
            twin = rng.choice(out)
            out.append(Example(uid, rng.randint(1, 6), twin.neurons, twin.path))
            continue
        neurons = tuple(
            tuple(sorted(rng.sample(range(problem.width), problem.per_layer)))
            for _ in range(problem.layers)
        )
        path = tuple(rng.randrange(size) for size in problem.level_sizes)
        out.append(Example(uid, rng.randint(1, 6), neurons, path))
    return out


def random_instance(
    seed: int, n: int, name: str | None = None
) -> tuple[random.Random, Problem, list[Example]]:
    rng = random.Random(seed)
    problem = random_problem(rng, n, name)
    return rng, problem, random_examples(rng, problem, n)


def arrays(problem: Problem, examples: Sequence[Example]) -> tuple[np.ndarray, ...]:
    """uids, tokens_N, neurons_NA and paths_NP."""
    n = len(examples)
    starts = [sum(problem.level_sizes[:level]) for level in range(len(problem.level_sizes))]
    neurons = [[j for layer in e.neurons for j in layer] for e in examples]
    paths = [[s + j for s, j in zip(starts, e.path, strict=True)] for e in examples]
    return (
        np.array([e.uid for e in examples], "S32"),
        np.array([e.tokens for e in examples], np.int32),
        np.array(neurons, np.uint16).reshape(n, problem.layers * problem.per_layer),
        np.array(paths, np.int32).reshape(n, len(starts)),
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
        np.array([rng.bytes(16).hex() for _ in range(n)], "S32"),
        rng.integers(10, 200, n).astype(np.int32),
        np.concatenate(layers, axis=1).astype(np.uint16),
        np.stack(nodes, axis=1).astype(np.int32),
    )
