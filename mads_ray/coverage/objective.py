"""f(S) = sum over features j of w_j * phi(c_j(S)): the one objective of a selection.

Features are the model's neurons (weight 1) and the nodes of the cluster tree (weighted so that an
example's path counts `tree_share` times its neurons). c_j counts the examples of S that activate
j. phi is concave, so f is monotone submodular and greedy is within 1 - 1/e of the optimum
(Nemhauser, Wolsey and Fisher 1978). `union` is the plain coverage of the literature.

All arithmetic on f is in integers of 2^-20: sums do not depend on their order.
D features, A active neurons a row (layers x k), P tree levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mads_ray.coverage.rows import FeatureRows

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

UNIT = 2**20  # integer value of f = 1


def phi(name: str, upto: int) -> npt.NDArray[np.float64]:
    """phi(0), ..., phi(upto) of sqrt, log1p, union or cap:T."""
    c = np.arange(upto + 1, dtype=np.float64)
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
class Objective:
    """Feature space and integer tables.

    `base_A`: first feature of each slot's layer. `class_D`: 0 for neurons, 1 + level for tree
    nodes. `marginal_CM`: w * (phi(m+1) - phi(m)) by class and count m. `value_CM`: w * phi(m).
    """

    base_A: I32
    neurons: int
    class_D: npt.NDArray[np.int8]
    marginal_CM: I64
    value_CM: I64

    def value(self, counts_D: I32) -> int:
        """f, in units of 2^-20, of a set with these counts."""
        return int(self.value_CM[self.class_D, counts_D].sum())

    def prices(self, counts_D: I32) -> I64:
        """Marginal value of one more example for every feature, int64 (D,)."""
        return self.marginal_CM[self.class_D, counts_D]

    def empty_counts(self) -> I32:
        """Counts of the empty set, int32 (D,)."""
        return np.zeros(len(self.class_D), np.int32)

    def counts(self, rows: FeatureRows, chosen: npt.NDArray[np.integer] | None = None) -> I32:
        """How many of the chosen rows activate each feature, int32 (D,)."""
        counts = self.empty_counts()
        index = np.arange(len(rows)) if chosen is None else chosen
        for start in range(0, len(index), 1024):  # bounds the int64 copy that bincount makes
            block = index[start : start + 1024]
            features = (rows.neurons_NA[block].astype(np.int32) + self.base_A).ravel()
            counts += np.bincount(features, minlength=len(counts)).astype(np.int32)
            nodes = rows.paths_NP[block].ravel() + self.neurons
            counts += np.bincount(nodes, minlength=len(counts)).astype(np.int32)
        return counts


def make_objective(
    name: str,
    layers: int,
    width: int,
    per_layer: int,
    level_sizes: tuple[int, ...],
    tree_share: float,
    most_rows: int,
) -> Objective:
    """`most_rows`: the largest set whose value will be asked for."""
    active = layers * per_layer
    weights = [1.0] + [tree_share * active / max(1, len(level_sizes))] * len(level_sizes)
    curve = phi(name, most_rows + 1)
    marginal = np.stack([np.rint(np.diff(curve) * w * UNIT).astype(np.int64) for w in weights])
    value = np.concatenate([np.zeros((len(weights), 1), np.int64), marginal.cumsum(1)], axis=1)
    class_sizes = (layers * width, *level_sizes)
    classes = np.repeat(np.arange(len(class_sizes), dtype=np.int8), class_sizes)
    base = np.repeat(np.arange(layers, dtype=np.int32) * width, per_layer)
    return Objective(base, layers * width, classes, marginal, value)
