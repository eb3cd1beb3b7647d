"""A slow, independent reference: examples with tuples of features, counted in plain dicts.

It shares no code with the package. `arrays` lays examples out as the package's row arrays.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import accumulate

import numpy as np
from hypothesis import settings

UNIT = 2**28  # of f: 2^20 of the curve times 2^8 of the weights
OBJECTIVES = ("sqrt", "log1p", "union", "cap:2")
MASK = 2**64 - 1

quick = settings(max_examples=80, deadline=None)
Feature = tuple[str, int, int]  # kind, layer or level, number within it


@dataclass(frozen=True)
class Spec:
    """An objective and its features."""

    name: str
    layers: int
    width: int
    per_layer: int
    level_sizes: tuple[int, ...]
    tree_share: float


@dataclass(frozen=True)
class Example:
    uid: str
    tokens: int
    neurons: tuple[tuple[int, ...], ...]  # a tuple a layer
    path: tuple[int, ...]  # number within each level
    bonus: int = 0
    groups: tuple[int, ...] = ()  # numbers over all partitions

    @property
    def features(self) -> list[Feature]:
        neurons = [("neuron", n, j) for n, layer in enumerate(self.neurons) for j in layer]
        return neurons + [("node", level, j) for level, j in enumerate(self.path)]


@dataclass(frozen=True)
class Bounded:
    """Floor, cap and partition of every group."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    partition: tuple[int, ...]

    def met(self, examples: Iterable[Example]) -> bool:
        used = Counter(g for e in examples for g in e.groups)
        limits = zip(self.low, self.high, strict=True)
        return all(low <= used[g] <= high for g, (low, high) in enumerate(limits))

    def reachable(self, used: Mapping[int, int], more: int | None) -> bool:
        """Caps hold, and `more` rows could still reach the floors of any one partition."""
        lacking: Counter[int] = Counter()
        for g, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if used[g] > high:
                return False
            lacking[self.partition[g]] += max(0, low - used[g])
        return more is None or all(n <= more for n in lacking.values())


def curve(name: str, c: int) -> float:
    if name == "sqrt":
        return math.sqrt(c)
    if name == "log1p":
        return math.log1p(c)
    return float(min(c, 1 if name == "union" else int(name[4:])))


@cache
def marginals(name: str) -> list[int]:
    """Rise of the curve at the counts 0, 1, ..., never rising, in units of 2^-20."""
    rises = (round((curve(name, m + 1) - curve(name, m)) * 2**20) for m in range(5000))
    return list(accumulate(rises, min))


def weight(spec: Spec, feature: Feature, target: Mapping[Feature, int] | None = None) -> int:
    """In units of 2^-8. With a target, in proportion to how often it shows the feature."""
    kind, level, _ = feature
    size, plain = spec.layers * spec.width, 1.0
    if kind == "node":
        active = spec.layers * spec.per_layer
        plain = spec.tree_share * active / len(spec.level_sizes)
        size = spec.level_sizes[level]
    if target is not None:
        alike = [f for f in target if f[0] == kind and (kind == "neuron" or f[1] == level)]
        shown = sum(target[f] for f in alike)
        plain *= target[feature] / (shown / size) if shown else 0
    return round(plain * 256)


def count(examples: Iterable[Example]) -> Counter[Feature]:
    return Counter(f for e in examples for f in e.features)


def value_of(
    spec: Spec, counts: Mapping[Feature, int], target: Mapping[Feature, int] | None = None
) -> int:
    rise = marginals(spec.name)
    return sum(weight(spec, f, target) * sum(rise[:c]) for f, c in counts.items())


def value(spec: Spec, examples: Sequence[Example]) -> int:
    """With the examples' bonuses."""
    return value_of(spec, count(examples)) + sum(e.bonus for e in examples)


def gain(spec: Spec, example: Example, counts: Mapping[Feature, int]) -> int:
    rise = marginals(spec.name)
    return example.bonus + sum(_weight(spec, f[0]) * rise[counts[f]] for f in example.features)


@cache
def _weight(spec: Spec, kind: str) -> int:
    return weight(spec, (kind, 0, 0))


def feature_index(spec: Spec, feature: Feature) -> int:
    kind, group, j = feature
    if kind == "neuron":
        return group * spec.width + j
    return spec.layers * spec.width + sum(spec.level_sizes[:group]) + j


def dense(spec: Spec, counts: Mapping[Feature, int]) -> list[int]:
    """Counts of all features in the package's order."""
    out = [0] * (spec.layers * spec.width + sum(spec.level_sizes))
    for f, c in counts.items():
        out[feature_index(spec, f)] = c
    return out


def hash64(uid: str, seed: int, stream: int = 0) -> int:
    """SplitMix64's finaliser over both halves of a uid."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    key = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03) & MASK
    return mix(mix(int(uid[:16], 16) ^ mix(key)) ^ int(uid[16:], 16))


def naive_greedy(
    spec: Spec,
    examples: Sequence[Example],
    seed: int,
    rows: int | None = None,
    tokens: int | None = None,
    *,
    by_cost: bool | None = None,
    base: Iterable[Example] = (),
    bounded: Bounded | None = None,
) -> list[tuple[str, int]]:
    """Every remaining example that fits is tried at every step. Uids and gains."""
    by_cost = tokens is not None if by_cost is None else by_cost
    left = sorted(examples, key=lambda e: (hash64(e.uid, seed), e.uid))
    counts, used = count(base), Counter(g for e in base for g in e.groups)
    spent = 0
    picked: list[tuple[str, int]] = []

    def fits(e: Example) -> bool:
        more = None if rows is None else rows - len(picked) - 1
        room = tokens is None or spent + e.tokens <= tokens
        return room and (bounded is None or bounded.reachable(used + Counter(e.groups), more))

    while rows is None or len(picked) < rows:
        left = [e for e in left if fits(e)]
        if not left:
            break
        worth = {e: gain(spec, e, counts) for e in left}
        best = max(left, key=lambda e: Fraction(worth[e], e.tokens if by_cost else 1))  # the first
        picked.append((best.uid, worth[best]))
        counts.update(best.features)
        used.update(best.groups)
        spent += best.tokens
        left.remove(best)
    return picked


def best_value(
    spec: Spec,
    examples: Sequence[Example],
    rows: int | None = None,
    tokens: int | None = None,
    *,
    base: Iterable[Example] = (),
    allowed: Callable[[list[Example]], bool] = lambda _: True,
) -> int:
    """What the best set adds to the base, by trying every subset; -1 if none is allowed."""
    counts, chosen, best = count(base), [], -1

    def visit(i: int, f: int, spent: int) -> None:
        nonlocal best
        if f > best and allowed(chosen):
            best = f
        for j in range(i, len(examples) if rows is None or len(chosen) < rows else i):
            e = examples[j]
            if tokens is None or spent + e.tokens <= tokens:
                g = gain(spec, e, counts)
                chosen.append(e)
                counts.update(e.features)
                visit(j + 1, f + g, spent + e.tokens)
                counts.subtract(e.features)
                chosen.pop()

    visit(0, 0, 0)
    return best


def random_spec(rng: random.Random, name: str | None = None) -> Spec:
    width = rng.randint(2, 6)
    return Spec(
        name or rng.choice(OBJECTIVES),
        rng.randint(1, 3),
        width,
        rng.randint(1, min(3, width)),
        rng.choice([(1,), (3,), (2, 4), (1, 2, 5)]),
        rng.choice([0.0, 0.5, 1.3]),
    )


def random_examples(rng: random.Random, spec: Spec, n: int) -> list[Example]:
    """Few neurons and repeated rows, so that gains tie often."""
    out: list[Example] = []
    for _ in range(n):
        uid, tokens = f"{rng.getrandbits(128):032x}", rng.randint(1, 6)
        if out and rng.random() < 0.2:
            out.append(replace(rng.choice(out), uid=uid, tokens=tokens))
            continue
        neurons = tuple(
            tuple(sorted(rng.sample(range(spec.width), spec.per_layer))) for _ in range(spec.layers)
        )
        path = tuple(rng.randrange(size) for size in spec.level_sizes)
        out.append(Example(uid, tokens, neurons, path))
    return out


def random_instance(
    seed: int,
    n: int,
    name: str | None = None,
    *,
    bonus: bool = False,
    sizes: Sequence[int] = (),
) -> tuple[random.Random, Spec, list[Example]]:
    """`sizes`: groups of each partition."""
    rng = random.Random(seed)
    spec = random_spec(rng, name)
    examples = random_examples(rng, spec, n)
    if bonus:
        examples = [replace(e, bonus=rng.choice([0, 1, rng.randrange(UNIT)])) for e in examples]
    for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
        mine = [(*e.groups, start + rng.randrange(size)) for e in examples]
        examples = [replace(e, groups=g) for e, g in zip(examples, mine, strict=True)]
    return rng, spec, examples


def arrays(spec: Spec, examples: Sequence[Example]) -> tuple[np.ndarray, ...]:
    """uids_N2, tokens_N, neurons_NA, paths_NP, bonus_N and groups_NT."""
    n = len(examples)
    starts = [sum(spec.level_sizes[:level]) for level in range(len(spec.level_sizes))]
    halves = [(int(e.uid[:16], 16), int(e.uid[16:], 16)) for e in examples]
    neurons = [[j for layer in e.neurons for j in layer] for e in examples]
    paths = [[s + j for s, j in zip(starts, e.path, strict=True)] for e in examples]
    partitions = len(examples[0].groups) if examples else 0
    return (
        np.array(halves, np.uint64).reshape(n, 2),
        np.array([e.tokens for e in examples], np.int32),
        np.array(neurons, np.uint16).reshape(n, spec.layers * spec.per_layer),
        np.array(paths, np.int32).reshape(n, len(starts)),
        np.array([e.bonus for e in examples], np.int64),
        np.array([e.groups for e in examples], np.int32).reshape(n, partitions),
    )
