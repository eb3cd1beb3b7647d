"""f(S) = sum over features j of w_j * phi(c_j(S)) + sum over S of q_i: the one objective.

Features are the model's neurons (weighed by the pool, by a target, or all alike) and the nodes of
the cluster tree (weighed so that an example's path counts `tree_share` times its neurons). c_j
counts the examples of S that activate j. phi is concave, so f is monotone submodular and greedy is
within 1 - 1/e of the optimum (Nemhauser, Wolsey and Fisher 1978). `union` is the plain coverage of
the literature. q_i is the optional bonus of an example's own quality.

All arithmetic on f is in integers of 2^-28: sums do not depend on their order.
D features, A active neurons a row (layers x k), P tree levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mads_ray.arrays import F64, I32, I64
from mads_ray.submodular import kernels
from mads_ray.submodular.kernels import Space
from mads_ray.submodular.rows import FeatureRows

WEIGHT_UNIT = 2**8  # integer weight of w = 1
CURVE_UNIT = 2**20  # integer value of phi = 1
UNIT = WEIGHT_UNIT * CURVE_UNIT  # integer value of f = 1


def phi(name: str, counts: I64) -> F64:
    """sqrt, log1p, union or cap:T of some counts."""
    c = counts.astype(np.float64)
    if name == "sqrt":
        return np.sqrt(c)
    if name == "log1p":
        return np.log1p(c)
    if name == "union":
        return np.minimum(c, 1)
    if name.startswith("cap:"):
        return np.minimum(c, float(name.removeprefix("cap:")))
    raise ValueError(f"unknown objective {name!r}: sqrt, log1p, union or cap:T")


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """phi as an integer, concave, piecewise linear table of M segments.

    Every count below 2^16 has a segment of its own; above, 256 equal segments an octave, so that
    the table stays small for counts of any size. `start_M` first count, `value_M` phi there,
    `marginal_M` its rise per count; int64, in units of 2^-20.
    """

    start_M: I64
    value_M: I64
    marginal_M: I64

    @classmethod
    def of(cls, name: str) -> Curve:
        """The table of sqrt, log1p, union or cap:T."""
        octaves = np.arange(kernels.OCTAVES)[:, None]
        within = kernels.LINEAR + np.arange(kernels.STEPS) * (kernels.LINEAR // kernels.STEPS)
        knots = np.concatenate([np.arange(kernels.LINEAR), (within << octaves).ravel()])
        ends = np.append(knots[1:], knots[-1] * 2)
        rise = (phi(name, ends) - phi(name, knots)) / (ends - knots)
        # Rounding is monotone, but the difference of two rounded square roots may not be.
        marginal = np.minimum.accumulate(np.rint(rise * CURVE_UNIT).astype(np.int64))
        value = np.concatenate([[0], np.cumsum(marginal[:-1] * (ends - knots)[:-1])])
        return cls(knots, value, marginal)

    def segments(self, counts: I32) -> I32 | I64:
        """The segment of every count."""
        if not len(counts) or int(counts.max()) < kernels.LINEAR:
            return counts  # the usual case
        c = counts.astype(np.int64)
        octave = np.maximum(np.log2(np.maximum(c, 1)).astype(np.int64) - kernels.LINEAR_BITS, 0)
        step = ((c >> octave) - kernels.LINEAR) // (kernels.LINEAR // kernels.STEPS)
        return np.where(c < kernels.LINEAR, c, kernels.LINEAR + octave * kernels.STEPS + step)


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """What features there are: neurons in layers, then the nodes of a tree.

    Args:
        layers: layers of neurons.
        width: neurons of a layer, at most 65,536.
        per_layer: active neurons that a row has in each layer.
        level_sizes: nodes of each level of the tree, coarse to fine; a row is in one node of each.
    """

    layers: int
    width: int
    per_layer: int
    level_sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """f: a feature space, a weight for each feature, and the curve. See `make_objective`.

    Args:
        layers: layers of neurons.
        width: neurons of a layer.
        per_layer: active neurons that a row has in each layer.
        weight_D: int64 (D,), weights in units of 2^-8; neurons come first, then nodes of the tree.
        curve: what a feature is worth by how many rows have it.
    """

    layers: int
    width: int
    per_layer: int
    weight_D: I64
    curve: Curve

    @property
    def space(self) -> Space:
        """What the compiled loops take."""
        return Space(self.layers, self.width, self.weight_D, self.curve.marginal_M)

    @property
    def neurons(self) -> int:
        """Features that are neurons; those after them are nodes of the tree."""
        return self.layers * self.width

    @property
    def layer_start_A(self) -> I32:
        """Number of the first feature in the layer of each of a row's neurons, int32 (A,)."""
        return np.repeat(np.arange(self.layers, dtype=np.int32) * self.width, self.per_layer)

    def require(self, rows: FeatureRows) -> None:
        """Raise ValueError unless all features of some rows are features of f."""
        neurons, nodes = rows.neurons_NA, len(self.weight_D) - self.neurons
        if neurons.shape[1] != self.layers * self.per_layer:
            raise ValueError(
                f"rows have {neurons.shape[1]} neurons, not {self.per_layer} in each of "
                f"{self.layers} layers"
            )
        if neurons.size and int(neurons.max()) >= self.width:
            raise ValueError(f"neuron {neurons.max()} is beyond a layer of {self.width}")
        if rows.paths_NP.size and not 0 <= rows.paths_NP.min() <= rows.paths_NP.max() < nodes:
            raise ValueError(f"paths_NP names nodes beyond the {nodes} of the tree")

    def value(self, counts_D: I32) -> int:
        """f of a set with these counts, without the bonus of its rows; in units of 2^-28."""
        segment_D = self.curve.segments(counts_D)
        rest_D = counts_D - self.curve.start_M[segment_D]
        phi_D = self.curve.value_M[segment_D] + rest_D * self.curve.marginal_M[segment_D]
        return int((phi_D * self.weight_D).sum())

    def prices(self, counts_D: I32) -> I64:
        """Marginal value of one more example for every feature, int64 (D,)."""
        return self.curve.marginal_M[self.curve.segments(counts_D)] * self.weight_D

    def losses(self, counts_D: I32) -> I64:
        """Value of the last example that holds a feature, int64 (D,); at count 0 the price."""
        return self.prices(np.maximum(counts_D - 1, 0).astype(np.int32))

    def empty_counts(self) -> I32:
        """Counts of the empty set, int32 (D,)."""
        return np.zeros(len(self.weight_D), np.int32)

    def counts(self, rows: FeatureRows, chosen: npt.NDArray[np.integer] | None = None) -> I32:
        """How many of the chosen rows activate each feature, int32 (D,)."""
        counts = self.empty_counts()
        self.add_counts(rows, np.arange(len(rows)) if chosen is None else chosen, counts)
        return counts

    def weighted_counts(self, rows: FeatureRows, weights_N: I64) -> I64:
        """What the rows that activate each feature weigh together, int64 (D,)."""
        counts_D = np.zeros(len(self.weight_D), np.int64)
        shape = (self.layers, self.width)
        kernels.count_weighted(rows.neurons_NA, rows.paths_NP, *shape, weights_N, counts_D)
        return counts_D

    def add_counts(self, rows: FeatureRows, chosen: npt.NDArray[np.integer], counts_D: I32) -> None:
        """Add the chosen rows to `counts_D`."""
        kernels.count(
            rows.neurons_NA,
            rows.paths_NP,
            self.layers,
            self.width,
            chosen.astype(np.int64),
            counts_D,
        )


def make_objective(
    name: str,
    space: FeatureSpace,
    tree_share: float = 0.0,
    target_counts_D: I32 | None = None,
    pool_counts_D: I64 | None = None,
) -> Objective:
    """The objective f: the sum over features of weight * phi(how many rows have the feature).

    Neurons weigh 1, unless a target or a pool weighs them. With the weights of a pool and the curve
    sqrt, f over neurons is the Bhattacharyya coefficient of the core set's and the pool's
    distributions of neurons (Bhattacharyya 1943), up to the core set's size: no neuron is sought
    for being rare.

    Args:
        name: the curve phi: "sqrt", "log1p", "union" (a feature counts once) or "cap:T" (T times).
        space: what features there are.
        tree_share: what the nodes on a row's path weigh, as a share of its neurons.
        target_counts_D: how often a target set shows each feature. A feature weighs in proportion,
            with mean 1 over the neurons, and over each level of the tree.
        pool_counts_D: how many of all examples show each feature, or what these weigh together. A
            neuron weighs the square root of that, in such a scale that a random example is worth
            what it is with weights of 1. A target goes first.

    Returns:
        The objective, with integer weights and an integer curve.

    Raises:
        ValueError: the name is not one of these.
    """
    active, level_sizes = space.layers * space.per_layer, space.level_sizes
    neurons = space.layers * space.width
    sizes = (neurons, *level_sizes)
    weights = [1.0] + [tree_share * active / max(1, len(level_sizes))] * len(level_sizes)
    weight_D = np.repeat(weights, sizes)
    if target_counts_D is not None:
        stops = np.cumsum(sizes)
        for start, stop in zip(stops - sizes, stops, strict=True):
            shown = target_counts_D[start:stop].astype(np.float64)
            weight_D[start:stop] *= shown / max(shown.mean(), 1e-12)
    elif pool_counts_D is not None:
        shown = pool_counts_D[:neurons].astype(np.float64)
        # Exactly rounded sums: the weights are the same on any machine.
        scale = shown.sum() / max(math.fsum(shown * np.sqrt(shown)), 1.0)
        weight_D[:neurons] = np.sqrt(shown) * scale
    units_D = np.rint(weight_D * WEIGHT_UNIT).astype(np.int64)
    return Objective(space.layers, space.width, space.per_layer, units_D, Curve.of(name))
