"""Compiled inner loops of the scale generator (numba, cached on disk).

All random numbers are functions of (seed, stream, numbers that name what is drawn), so rows do not
depend on the order they are made in. L layers, W width, C clusters, S sketch length, N rows, A
neurons a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

DRAW, KEEP, NOISE, PARENT_DRAW, PARENT_NOISE = range(16, 21)  # streams
STEP = np.uint64(0x9E3779B97F4A7C15)
_jit = numba.njit(cache=True, nogil=True)


class Plan(NamedTuple):
    """For the compiled loops: rows from `start` on, the i-th of them in cluster `label_N[i]`."""

    start: int
    seed: int
    keep: float
    label_N: npt.NDArray[np.int32]
    parent_N: npt.NDArray[np.int64]
    order_N: npt.NDArray[np.int64]


@_jit
def _mix(x: Any) -> Any:
    """SplitMix64's finaliser. A stream's t-th number is _mix(key + t * STEP)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@_jit
def _key(seed: int, stream: int, a: int, b: int) -> Any:
    x = _mix(np.uint64(seed) * STEP + np.uint64(stream))
    return _mix(_mix(x + np.uint64(a) * STEP) + np.uint64(b) * STEP)


@_jit
def hashes(seed: int, stream: int, a_N: Any, b_N: Any) -> Any:
    """A pseudo-random uint64 for every (a, b), (N,)."""
    out_N = np.empty(len(a_N), np.uint64)
    for i in range(len(a_N)):
        out_N[i] = _key(seed, stream, a_N[i], b_N[i])
    return out_N


@_jit
def alias_tables(weight_LW: Any, alias_LW: Any) -> None:
    """Vose's alias tables (1991), one a layer: chance in 2^-16, shifted by 16, and alias."""
    width = weight_LW.shape[1]
    for layer in range(len(weight_LW)):
        chance_W = weight_LW[layer] * (width / weight_LW[layer].sum())
        # Two stacks in one array: chances under 1 from the left, the others from the right.
        stack_W, low, high = np.empty(width, np.int64), 0, width
        for j in range(width):
            alias_LW[layer, j] = 0xFFFF0000 | j
            if chance_W[j] < 1:
                stack_W[low] = j
                low += 1
            else:
                high -= 1
                stack_W[high] = j
        while low > 0 and high < width:
            small, large = stack_W[low - 1], stack_W[high]
            alias_LW[layer, small] = (np.int64(chance_W[small] * 65536) << 16) | large
            chance_W[large] -= 1 - chance_W[small]
            if chance_W[large] < 1:
                stack_W[low - 1] = large
                high += 1
            else:
                low -= 1


@_jit
def _ones(x: Any) -> int:
    """Number of bits that are set."""
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_jit
def _fill(bits_LB: Any, alias_LW: Any, per_layer: int, state: Any) -> None:
    """Draw until `per_layer` bits of every layer are set."""
    for layer in range(len(alias_LW)):
        missing = per_layer
        for bits in bits_LB[layer]:
            missing -= _ones(bits)
        while missing > 0:
            z = _mix(state)
            state += STEP
            j = ((z >> np.uint64(32)) * np.uint64(alias_LW.shape[1])) >> np.uint64(32)
            slot = np.uint64(alias_LW[layer, j])
            if (z & np.uint64(0xFFFF)) >= slot >> np.uint64(16):
                j = slot & np.uint64(0xFFFF)
            bits = bits_LB[layer, j >> np.uint64(6)]
            missing -= np.int64(~(bits >> (j & np.uint64(63))) & np.uint64(1))
            bits_LB[layer, j >> np.uint64(6)] = bits | np.uint64(1) << (j & np.uint64(63))


@_jit
def _move(bits_LB: Any, out_A: Any) -> None:
    """Bits to ascending indexes; leaves no bit set."""
    at = 0
    for bits_B in bits_LB:
        for b in range(len(bits_B)):
            while bits_B[b]:
                below = ~bits_B[b] & (bits_B[b] - np.uint64(1))
                out_A[at] = 64 * b + _ones(below)
                bits_B[b] &= bits_B[b] - np.uint64(1)
                at += 1


@_jit
def draw_neurons(plan: Plan, alias_CLW: Any, out_NA: Any) -> None:
    """Neurons of every row, layer-major, ascending in each layer."""
    _, layers, width = alias_CLW.shape
    per_layer = out_NA.shape[1] // layers
    bits_LB = np.zeros((layers, (width + 63) // 64), np.uint64)
    for i in plan.order_N:
        label, parent, out_A = plan.label_N[i], plan.parent_N[i], out_NA[i]
        if parent >= 0:
            state = _key(plan.seed, PARENT_DRAW, label, parent)
            _fill(bits_LB, alias_CLW[label], per_layer, state)
            _move(bits_LB, out_A)
            state = _key(plan.seed, KEEP, plan.start + i, 0)
            for a in range(len(out_A)):
                keep = _mix(state + np.uint64(a) * STEP) >> np.uint64(40) < plan.keep * 2**24
                word, at = out_A[a] >> 6, np.uint64(out_A[a] & 63)
                bits_LB[a // per_layer, word] |= np.uint64(keep) << at
        _fill(bits_LB, alias_CLW[label], per_layer, _key(plan.seed, DRAW, plan.start + i, 0))
        _move(bits_LB, out_A)


@_jit
def _normal(z: Any) -> float:
    """Nearly, from 64 random bits: the sum of four uniform numbers of 16."""
    total = np.uint64(0)
    for shift in range(0, 64, 16):
        total += (z >> np.uint64(shift)) & np.uint64(0xFFFF)
    return (np.float64(total) - 2 * 65535) / (65536 / np.sqrt(3))


@_jit
def draw_sketches(plan: Plan, centre_CS: Any, noise_weight: float, out_NS: Any) -> None:
    """Unit vectors; a near-duplicate shares `keep` of its parent's noise."""
    scale = noise_weight / np.sqrt(out_NS.shape[1])
    for i in plan.order_N:
        label, parent, out_S = plan.label_N[i], plan.parent_N[i], out_NS[i]
        own_key = _key(plan.seed, NOISE, plan.start + i, 0)
        parent_key = _key(plan.seed, PARENT_NOISE, label, parent)
        for s in range(len(out_S)):
            noise = _normal(_mix(own_key + np.uint64(s) * STEP))
            if parent >= 0:
                shared = _normal(_mix(parent_key + np.uint64(s) * STEP))
                noise = plan.keep * shared + np.sqrt(1 - plan.keep**2) * noise
            out_S[s] = centre_CS[label, s] + scale * noise
        out_S /= np.sqrt((out_S * out_S).sum())
