"""The compiled loops of `tree_bound`: what rows are worth in a node of the tree, by their number.

A node's worth is a concave function of how many rows it gets, as pieces: `slope_S` is what a row is
worth there, falling within a node, and `mass_S` how many rows, in units of 1/256. Nodes follow each
other; node g has pieces `start_G[g]` to `start_G[g + 1]`. Integers throughout. S pieces, G nodes, M
segments of the curve.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mads_ray.submodular.jit import jit
from mads_ray.submodular.kernels import segment

MASS = 256  # of a row
_FINE = 16  # the first rows have a piece of the curve each; later ones, two for a 16th so far


@jit
def _value(count: Any, start_M: Any, value_M: Any, marginal_M: Any) -> Any:
    s = segment(count)
    return value_M[s] + (count - start_M[s]) * marginal_M[s]


@jit
def _stretch(count: Any, rows: Any, start_M: Any, value_M: Any, marginal_M: Any) -> Any:
    """(first slope, its mass, second slope) of so many rows of the curve from a count on.

    The tangents at both ends are above the curve, and so is the lower of them.
    """
    first = marginal_M[segment(count)]
    last = marginal_M[segment(count + rows - 1)]
    if first == last:
        return first, rows * MASS, last
    rise = _value(count + rows, start_M, value_M, marginal_M)
    rise -= _value(count, start_M, value_M, marginal_M)
    return first, -(-MASS * (rise - last * rows) // (first - last)), last


@jit
def _grown(array: Any) -> Any:
    longer = np.empty(2 * len(array), np.int64)
    longer[: len(array)] = array
    return longer


@jit
def join(
    start_G: Any,
    slope_S: Any,
    mass_S: Any,
    weight_G: Any,
    base_G: Any,
    most: int,
    start_M: Any,
    value_M: Any,
    marginal_M: Any,
) -> Any:
    """(start_G, slope_S, mass_S) of nodes, from the pieces of all their children, best first.

    To the n-th row of a node comes what its own count is worth: `weight_G` times the curve, from
    `base_G` on. At most `most` mass of a node.
    """
    out_start = np.zeros(len(start_G), np.int64)
    out_slope = np.empty(len(slope_S) + 1024, np.int64)
    out_mass = np.empty(len(slope_S) + 1024, np.int64)
    n = 0
    for g in range(len(start_G) - 1):
        count, left, spare = np.int64(base_G[g]), np.int64(0), np.int64(0)
        slope, then, room = np.int64(0), np.int64(0), most
        if weight_G[g] == 0:
            left = np.int64(most)  # no pieces of its own
        for s in range(start_G[g], start_G[g + 1]):
            mass = min(mass_S[s], room)
            room -= mass
            while mass > 0:
                if left == 0 and spare > 0:
                    slope, left, spare = then, spare, np.int64(0)
                elif left == 0:
                    rows = max(np.int64(1), (count - base_G[g]) // _FINE)
                    slope, left, then = _stretch(count, rows, start_M, value_M, marginal_M)
                    spare = rows * MASS - left
                    count += rows
                    continue
                step = min(mass, left)
                if n == len(out_slope):
                    out_slope, out_mass = _grown(out_slope), _grown(out_mass)
                out_slope[n], out_mass[n] = slope_S[s] + weight_G[g] * slope, step
                n += 1
                mass -= step
                left -= step
            if room == 0:
                break
        out_start[g + 1] = n
    return out_start, out_slope[:n], out_mass[:n]
