"""How close to the optimum a core set is: light features at a price, the tree's nodes exactly.

A price for every feature, as in `certificate`, leaves slack where a feature is heavy: a node of the
tree is worth much to its first row and little to the next, and no one price says both. Here only
neurons, and nodes of many rows, have prices pi: those of one more example at the core set's counts
c. For any set S,

  f(S) <= sum over priced features of [w phi(c) - pi c] + sum over S of s_i
          + sum over the other nodes of w phi,

where s_i is row i's bonus and its prices. The largest value of the last two sums over all sets
within the budget is found exactly: nodes nest, so what a node is worth by the number of its rows is
concave, and that of its parent follows from those of its children, best rows first. Rows enter as a
histogram of s_i in every leaf, which adds over shards. A row within a bin counts as a fraction at
each of its edges, with the same mean: no concave function is worth less by that.

A budget in tokens takes lambda times a row's tokens off s_i, and adds lambda times the budget: that
is valid for any lambda >= 0. All in integers. N rows, L leaves, P levels, B cells (bins of a leaf
that have rows), S pieces (see `tree_bound_kernel`), G nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mads_ray.arrays import I32, I64, Mask
from mads_ray.submodular import tree_bound_kernel as kernel
from mads_ray.submodular.objective import Objective
from mads_ray.submodular.tree_bound_kernel import MASS

_SHIFT = 8  # as in `certificate`
_GRAIN = MASS << _SHIFT  # widths are multiples of it, so that fractions of rows are whole numbers
# A small set has few rows in a leaf, and an error of a bin's width in each.
_FEW, _FINE_BINS, _BINS = 8192, 4096, 256
_MANY = 32  # rows of a node from which on a price says nearly all: 0.0002 of f on pools tried


@dataclass(frozen=True, slots=True)
class Scale:
    """What a unit of cost takes off a row's worth, and the bins of what is left: so many of one
    width, a fifth of them above 0. What is above or below all bins counts too."""

    price: int
    bins: int
    width: int

    @classmethod
    def of(cls, objective: Objective, counts_D: I32, rows: int, price: int) -> Scale:
        """Bins from minus four times to once what features of a row are worth, in the mean over the
        core set, at the prices of `counts_D`."""
        worth = int((objective.prices(counts_D) * counts_D).sum()) // max(1, rows)
        bins = _FINE_BINS if rows <= _FEW else _BINS
        return cls(price, bins, max(1, 5 * worth // (bins * _GRAIN)) * _GRAIN)

    @property
    def below(self) -> int:
        """Bins below 0."""
        return self.bins * 4 // 5


@dataclass(frozen=True, slots=True, eq=False)
class LeafHistogram:
    """Rows by leaf of the tree and by what they are worth without it.

    `paths_LP` int32: the nodes of every leaf that has rows. Cells that have rows, ascending:
    `leaf_B` and `bin_B`; `rows_B`, how many; `rest_B`, the sum of what these are worth above the
    bin's lower edge, >> 8; int64 all.
    """

    scale: Scale
    paths_LP: I32
    leaf_B: I64
    bin_B: I64
    rows_B: I64
    rest_B: I64

    @classmethod
    def of(cls, gain_N: I64, cost_N: I64, paths_NP: I32, scale: Scale) -> LeafHistogram:
        """Histogram of some rows, from their worth at the prices of neurons."""
        above_N = gain_N - scale.price * cost_N + scale.below * scale.width
        above_N = np.maximum(above_N, 0)  # a row below all bins counts as one at their lower end
        bin_N = np.minimum(above_N // scale.width, scale.bins)
        rest_N = (above_N - bin_N * scale.width + (2**_SHIFT - 1)) >> _SHIFT
        return _summed(scale, paths_NP, bin_N, np.ones(len(gain_N), np.int64), rest_N)

    @classmethod
    def merge(cls, parts: Sequence[LeafHistogram]) -> LeafHistogram:
        """The sum, whatever the order of the parts."""
        scale = parts[0].scale
        assert all(p.scale == scale for p in parts)
        names = ("bin_B", "rows_B", "rest_B")
        columns = (np.concatenate([getattr(p, n) for p in parts]) for n in names)
        return _summed(scale, np.concatenate([p.paths_LP[p.leaf_B] for p in parts]), *columns)


def _summed(scale: Scale, paths_NP: I32, bin_N: I64, rows_N: I64, rest_N: I64) -> LeafHistogram:
    paths_LP, leaf_N = _leaves(paths_NP)
    wide = scale.bins + 1
    cells_B, at_N = np.unique(leaf_N * wide + bin_N, return_inverse=True)
    rows_B, rest_B = np.zeros(len(cells_B), np.int64), np.zeros(len(cells_B), np.int64)
    np.add.at(rows_B, at_N, rows_N)
    np.add.at(rest_B, at_N, rest_N)
    return LeafHistogram(scale, paths_LP, cells_B // wide, cells_B % wide, rows_B, rest_B)


def _leaves(paths_NP: I32) -> tuple[I32, I64]:
    """The path of each leaf that there is, ascending, and the number among them of each path.

    Raises ValueError where paths that end in one leaf differ.
    """
    leaf_N = paths_NP[:, -1] if paths_NP.shape[1] else np.zeros(len(paths_NP), np.int32)
    there = np.bincount(leaf_N) > 0
    at_N = (np.cumsum(there) - 1)[leaf_N]
    paths_LP = np.zeros((int(there.sum()), paths_NP.shape[1]), np.int32)
    paths_LP[at_N] = paths_NP
    if (paths_LP[at_N] != paths_NP).any():
        raise ValueError("the nodes of the tree do not nest: a leaf is in two nodes of a level")
    return paths_LP, at_N


def bound_prices(objective: Objective, counts_D: I32) -> I64:
    """The price of one more example for every feature that is priced, else 0; int64 (D,)."""
    return np.where(_priced(objective, counts_D), objective.prices(counts_D), 0)


def _priced(objective: Objective, counts_D: I32) -> Mask:
    """Neurons, and nodes of many rows. With a node, those above it are priced too."""
    priced_D = counts_D >= _MANY
    priced_D[: objective.neurons] = True
    return priced_D


def tree_bound(
    objective: Objective,
    counts_D: I32,
    base_D: I32,
    histogram: LeafHistogram,
    budget: int,
    by_cost: bool,
) -> int:
    """A bound on f(base + OPT), in units of 2^-28, from rows at `bound_prices` of `counts_D`.

    `base_D`: counts of what is in from the start. `budget` in the unit of the costs, which are 1
    unless `by_cost`.
    """
    price, priced_D = histogram.scale.price, _priced(objective, counts_D)
    prices_D = bound_prices(objective, counts_D)
    constant = objective.value(np.where(priced_D, counts_D, base_D))
    constant -= int((prices_D * (counts_D - base_D)).sum())
    # Above all bins a row is one at their upper end, and what it is worth beyond that.
    constant += int(histogram.rest_B[histogram.bin_B == histogram.scale.bins].sum()) << _SHIFT
    weight_D = np.where(priced_D, 0, objective.weight_D)
    slope_S, mass_S = _by_rows(objective, weight_D, base_D, histogram, budget, by_cost)
    if by_cost:
        constant += price * budget
    else:
        slope_S = slope_S + price  # all rows have one cost: no price is needed
    taken_S = slope_S > 0
    # A slope and the sum of all masses need more than 63 bits together.
    high_S, low_S = np.divmod(slope_S[taken_S], 2**20)
    mass_S = mass_S[taken_S]
    total = (int((high_S * mass_S).sum()) << 20) + int((low_S * mass_S).sum())
    return constant - (-total // MASS)


def _by_rows(
    objective: Objective,
    weight_D: I64,
    base_D: I32,
    histogram: LeafHistogram,
    budget: int,
    by_cost: bool,
) -> tuple[I64, I64]:
    """Pieces of what the whole tree is worth by the number of its rows, at most `budget` rows."""
    paths_LP, curve = histogram.paths_LP, objective.curve
    node_weight, node_base = weight_D[objective.neurons :], base_D[objective.neurons :]
    most = MASS * min(budget, int(histogram.rows_B.sum()))
    leaf_S, slope_S, mass_S = _pieces(histogram)
    first_D = curve.marginal_M[curve.segments(node_base)] * node_weight
    above_LP = first_D[paths_LP]  # what nodes add to a row's worth at most
    for level in range(paths_LP.shape[1] - 1, -2, -1):
        # A last join, of all nodes of the coarsest level, adds no feature of its own.
        node_L = paths_LP[:, level] if level >= 0 else np.zeros(len(paths_LP), np.int32)
        nodes_G, first_G, of_L = np.unique(node_L, return_index=True, return_inverse=True)
        weight_G = node_weight[nodes_G] if level >= 0 else np.zeros(1, np.int64)
        if level >= 0 and not weight_G.any():
            continue
        # No row is needed that is worth less with that than enough others without.
        most_S = slope_S + above_LP[:, : level + 1].sum(1)[leaf_S]
        some = np.flatnonzero(most_S >= (0 if by_cost else _reached(slope_S, mass_S, most)))
        leaf_S, slope_S, mass_S = leaf_S[some], slope_S[some], mass_S[some]
        base_G = node_base[nodes_G] if level >= 0 else np.zeros(1, np.int32)
        group_S = of_L[leaf_S]
        order = np.lexsort((-slope_S, group_S))
        start_G = np.searchsorted(group_S[order], np.arange(len(nodes_G) + 1))
        start_G, slope_S, mass_S = kernel.join(
            start_G,
            slope_S[order],
            mass_S[order],
            weight_G,
            base_G,
            most,
            curve.start_M,
            curve.value_M,
            curve.marginal_M,
        )
        leaf_S = np.repeat(first_G, np.diff(start_G))  # any leaf of a node stands for it
    return slope_S, mass_S


def _reached(slope_S: I64, mass_S: I64, most: int) -> int:
    """The largest slope that pieces of `most` mass together reach; far below all if they do not."""
    falling = np.argsort(-slope_S)
    at = int(np.searchsorted(np.cumsum(mass_S[falling]), max(1, most)))
    return int(slope_S[falling[at]]) if at < len(falling) else -(2**62)


def _pieces(histogram: LeafHistogram) -> tuple[I64, I64, I64]:
    """Leaf, slope and mass: rows as fractions at the edges of their bins."""
    scale, whole_B = histogram.scale, MASS * histogram.rows_B
    high_B = np.minimum(-(-histogram.rest_B // (scale.width // _GRAIN)), whole_B)
    high_B[histogram.bin_B == scale.bins] = 0
    lower_B = (histogram.bin_B - scale.below) * scale.width
    slope_S = np.concatenate([lower_B, lower_B + scale.width])
    mass_S = np.concatenate([whole_B - high_B, high_B])
    there = np.flatnonzero(mass_S)
    return np.tile(histogram.leaf_B, 2)[there], slope_S[there], mass_S[there]
