"""Compiled inner loops over uint16-within-layer states (numba, cached on disk).

N rows, A active neurons a row, P tree levels, D features, T partitions, G groups. Feature
l * width + neurons_NA[i, a] belongs to slot a of layer l, feature layers * width + paths_NP[i, p]
to tree level p.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mads_ray.submodular.jit import jit

LINEAR_BITS = 16
LINEAR = 1 << LINEAR_BITS  # counts below it have a segment of the curve each
STEPS = 256  # segments an octave above it
OCTAVES = 15  # counts are int32


class Space(NamedTuple):
    """The objective as arrays: see `objective.Objective`."""

    layers: int
    width: int
    weight_D: Any
    marginal_M: Any


class Block(NamedTuple):
    """Rows that compete. `rank_N` breaks ties, `cost_N` divides gains, `open_N` may be picked."""

    neurons_NA: Any
    paths_NP: Any
    bonus_N: Any
    tokens_N: Any
    cost_N: Any
    rank_N: Any
    groups_NT: Any
    open_N: Any


class Limits(NamedTuple):
    """A budget, and how many rows of each group are in (`used_G`), at least and at most allowed.

    `need_T`: rows that each partition still lacks to reach its `low_G`. The loops update `used_G`
    and `need_T`.
    """

    max_rows: int
    max_tokens: int
    used_G: Any
    low_G: Any
    high_G: Any
    need_T: Any


@jit
def segment(count: Any) -> Any:
    """The segment of the curve that a count falls in."""
    count = np.int64(count)
    if count < LINEAR:
        return count
    octave = 0
    while (count >> octave) >= 2 * LINEAR:
        octave += 1
    return LINEAR + octave * STEPS + ((count >> octave) - LINEAR) // (LINEAR // STEPS)


@jit
def layers_gain(
    i: Any, first: int, last: int, neurons_NA: Any, each: int, width: int, prices_D: Any
) -> Any:
    """Sum of the prices of row i's neurons in layers [first, last), `each` a layer.

    It takes arrays, not a Block: whatever is unpacked in the inmost loops is counted as a reference
    there, which costs as much as the sum.
    """
    gain = np.int64(0)
    for layer in range(first, last):
        mine = neurons_NA[i, layer * each : (layer + 1) * each]
        prices = prices_D[layer * width : (layer + 1) * width]
        for a in range(mine.shape[0]):
            gain += prices[mine[a]]
    return gain


@jit
def clusters_gain(i: Any, paths_NP: Any, n_neurons: int, prices_D: Any) -> Any:
    """Sum of the prices of the tree nodes on row i's path."""
    gain = np.int64(0)
    for p in range(paths_NP.shape[1]):
        gain += prices_D[n_neurons + paths_NP[i, p]]
    return gain


@jit
def row_gain(i: Any, block: Block, space: Space, prices_D: Any) -> Any:
    """Sum of the prices of row i's features, and its bonus."""
    each = block.neurons_NA.shape[1] // space.layers
    layers, width = space.layers, space.width
    gain = layers_gain(i, 0, layers, block.neurons_NA, each, width, prices_D)
    gain += clusters_gain(i, block.paths_NP, layers * width, prices_D)
    return block.bonus_N[i] + gain


@jit
def count(
    neurons_NA: Any, paths_NP: Any, layers: int, width: int, index: Any, counts_D: Any
) -> None:
    """Add the features of the rows at `index` to the counts."""
    each = neurons_NA.shape[1] // layers
    for i in index:
        for layer in range(layers):
            counts = counts_D[layer * width : (layer + 1) * width]
            for a in range(layer * each, (layer + 1) * each):
                counts[neurons_NA[i, a]] += 1
        for p in range(paths_NP.shape[1]):
            counts_D[layers * width + paths_NP[i, p]] += 1


@jit
def count_weighted(
    neurons_NA: Any, paths_NP: Any, layers: int, width: int, weights_N: Any, counts_D: Any
) -> None:
    """Add the weight of every row to the counts of its features."""
    each = neurons_NA.shape[1] // layers
    for i in range(neurons_NA.shape[0]):
        weight = weights_N[i]
        for layer in range(layers):
            counts = counts_D[layer * width : (layer + 1) * width]
            for a in range(layer * each, (layer + 1) * each):
                counts[neurons_NA[i, a]] += weight
        for p in range(paths_NP.shape[1]):
            counts_D[layers * width + paths_NP[i, p]] += weight


@jit
def _raise_count(j: Any, counts_D: Any, prices_D: Any, weight_D: Any, marginal_M: Any) -> None:
    counts_D[j] += 1
    prices_D[j] = marginal_M[segment(counts_D[j])] * weight_D[j]


@jit
def add(i: Any, block: Block, space: Space, counts_D: Any, prices_D: Any) -> None:
    """Put row i in: count its features and lower their prices."""
    each = block.neurons_NA.shape[1] // space.layers
    for a in range(block.neurons_NA.shape[1]):
        j = a // each * space.width + np.int64(block.neurons_NA[i, a])
        _raise_count(j, counts_D, prices_D, space.weight_D, space.marginal_M)
    for p in range(block.paths_NP.shape[1]):
        j = space.layers * space.width + np.int64(block.paths_NP[i, p])
        _raise_count(j, counts_D, prices_D, space.weight_D, space.marginal_M)


@jit
def fits(i: int, block: Block, limits: Limits, picked: int) -> Any:
    """Whether row i keeps every partition feasible; once it does not, it never will again."""
    for t in range(block.groups_NT.shape[1]):
        g = block.groups_NT[i, t]
        if limits.used_G[g] >= limits.high_G[g]:
            return False
        spare = limits.max_rows - picked - limits.need_T[t]
        if limits.used_G[g] >= limits.low_G[g] and spare <= 0:
            return False
    return True


@jit
def take_group(i: int, block: Block, limits: Limits) -> None:
    """Note that row i is in."""
    for t in range(block.groups_NT.shape[1]):
        g = block.groups_NT[i, t]
        if limits.used_G[g] < limits.low_G[g]:
            limits.need_T[t] -= 1
        limits.used_G[g] += 1


@jit
def first_fitting(block: Block, limits: Limits) -> Any:
    """Rows in the order of `rank_N` (here a permutation) that fit the limits, int64."""
    picks = np.empty(block.rank_N.shape[0], np.int64)
    m = 0
    spent = 0
    for i in np.argsort(block.rank_N):
        if m >= limits.max_rows:
            break
        if spent + block.tokens_N[i] <= limits.max_tokens and fits(i, block, limits, m):
            take_group(i, block, limits)
            spent += block.tokens_N[i]
            picks[m] = i
            m += 1
    return picks[:m]


@jit
def follow(block: Block, space: Space, counts_D: Any, prices_D: Any) -> Any:
    """Marginal gains int64 (N,) of putting the rows in as they come; updates the counts."""
    out = np.empty(block.neurons_NA.shape[0], np.int64)
    for i in range(len(out)):
        out[i] = row_gain(i, block, space, prices_D)
        add(i, block, space, counts_D, prices_D)
    return out


@jit
def appraise(block: Block, space: Space, chosen_N: Any, prices_D: Any, losses_D: Any) -> Any:
    """(gain int64 (N,) at the prices, loss int64 (N,) of the chosen rows, else 0); 0 if not open.

    One pass over the rows: out of core, reading them is what costs.
    """
    n = block.neurons_NA.shape[0]
    gain_N, loss_N = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for i in range(n):
        if block.open_N[i]:
            gain_N[i] = row_gain(i, block, space, prices_D)
            if chosen_N[i]:
                loss_N[i] = row_gain(i, block, space, losses_D)
    return gain_N, loss_N
