"""Near-duplicates: rows of one cluster (leaf) that share most of their active neurons.

The overlap of two rows is the share of their A active neurons that they have in common. Comparing
every pair costs N^2, so rows meet by MinHash (Broder 1997): shards compute keys on their own, only
(key, hash, id) travel, rows that agree in a key become candidate pairs, and these are compared
exactly where the rows are. So nothing below the threshold is ever collapsed; what chance costs is
recall alone. A kept row is a leader; a collapsed row always reaches the threshold with its leader,
so chains of small differences do not drift.

Ranks below are in the canonical order (hash, id). N rows, A = layers * per_layer active neurons.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mads_ray.arrays import F32, I32, I64, U16, U64, Mask
from mads_ray.submodular.jit import jit

LEADERS = 4  # rows of a key that its other rows are compared with
_MISS = 1e-3  # chance that a pair just at the threshold shares no key
_MOST_ROWS, _MOST_BANDS = 8, 48
_ROUNDING = 1e-6  # 0.55 * 100 is a little more than 55

_NONE = np.uint64(2**64 - 1)
_LOW = np.uint64(2**32 - 1)
_ROUND = np.uint64(0x9E3779B9)
_F1, _F2 = np.uint64(0x85EBCA6B), np.uint64(0xC2B2AE35)  # MurmurHash3's 32-bit finaliser
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # SplitMix64's
_BAND = np.uint64(0xD1B54A32D192ED03)
_S13, _S16, _S27 = np.uint64(13), np.uint64(16), np.uint64(27)
_S30, _S31, _S32 = np.uint64(30), np.uint64(31), np.uint64(32)


def bands_for(threshold: float) -> tuple[int, int]:
    """Number of bands, and bins in each, that find pairs at `threshold`.

    Two sets of A with overlap t have Jaccard similarity J = t / (2 - t), and one bin of MinHash
    agrees with probability J. A band of r bins agrees with J^r, and at least one of b bands with
    1 - (1 - J^r)^b. We take the largest r <= 8 for which b <= 48 bands reach 0.999 at the
    threshold: long bands keep unrelated rows apart.

      threshold  r   b   overlap: 0.95    0.9     0.8     0.7     0.5     0.3     0.2
      0.95       8  12         0.999   0.93    0.38    0.08    0.002   1e-5    3e-7
      0.9        8  31         1       0.999   0.71    0.20    0.005   3e-5    7e-7
      0.85       6  39         1       1       0.97    0.62    0.05    0.001   7e-5
      0.8        4  32         1       1       0.999   0.94    0.33    0.03    0.005
      0.7        3  41         1       1       1       0.999   0.79    0.20    0.05

    Two rows of one leaf share 0.17 of their neurons in the median and 0.4 in the upper tenth
    (SmolLM2 on the labelled mix). Below 0.25 or so recall falls short of 0.999. At threshold 1
    there are no bands: the key of the whole state is enough.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is in (0, 1], not {threshold}")
    jaccard = threshold / (2 - threshold)
    if jaccard == 1:
        return 0, 1
    for r in range(_MOST_ROWS, 0, -1):
        bands = math.ceil(math.log(_MISS) / math.log1p(-(jaccard**r)))
        if bands <= _MOST_BANDS:
            return bands, r
    return _MOST_BANDS, 1


def band_keys(neurons_NA: U16, per_layer: int, leaf_N: I32, bands: int, rows_per_band: int) -> U64:
    """Keys uint64 (N, 1 + bands): the whole state's, then one a band. All are mixed with the leaf
    and with the number of the band, so that keys of different leaves or bands never meet.

    One hash of every (layer, neuron) picks its bin and competes for the bin's minimum (one
    permutation hashing: Li, Owen and Zhang 2012). While bins are empty, all neurons are hashed
    again for those alone (Dahlgaard, Knudsen and Thorup 2017), which keeps every bin's chance to
    agree at exactly J; with A = 1920 and 248 bins every tenth row needs that second round. The
    first key meets identical states whatever crowds the others.
    """
    keys_NB = np.empty((len(neurons_NA), 1 + bands), np.uint64)
    _band_keys(neurons_NA, per_layer, leaf_N, bands, rows_per_band, keys_NB)
    return keys_NB


def candidate_pairs(keys_B: U64, ids_B: I64, hashes_B: U64, leaders: int = LEADERS) -> I64:
    """Pairs of ids to compare, int64 (P, 2), the earlier row first, each once; P <= leaders * B.

    B entries (key, id, hash) of one bucket, in any order; all entries of a key are in one bucket.
    A row is compared with the first few rows of each of its keys: s near-duplicates of each other
    give O(s) pairs, and their leader is among these few in some band. Buckets by leaf give each
    pair once over all buckets, too; buckets by key do not.
    """
    order_B = np.lexsort((ids_B, hashes_B, keys_B))
    keys, ids = keys_B[order_B], ids_B[order_B]
    at_B = np.arange(len(keys))
    new_B = np.ones(len(keys), bool)
    new_B[1:] = keys[1:] != keys[:-1]
    first_B = np.maximum.accumulate(np.where(new_B, at_B, 0))
    parts = [np.empty((0, 2), np.int64)]
    for j in range(leaders):
        later = np.flatnonzero(at_B - first_B > j)
        parts.append(np.stack([ids[first_B[later] + j], ids[later]], axis=1))
    pairs_P2 = np.concatenate(parts)
    pairs_P2 = pairs_P2[pairs_P2[:, 0] != pairs_P2[:, 1]]
    return unique_pairs(pairs_P2)


def unique_pairs(pairs_P2: I64) -> I64:
    """Sorted, each once: for pairs of several buckets."""
    pairs_P2 = pairs_P2[np.lexsort((pairs_P2[:, 1], pairs_P2[:, 0]))]
    new_P = np.ones(len(pairs_P2), bool)
    new_P[1:] = (pairs_P2[1:] != pairs_P2[:-1]).any(1)
    return pairs_P2[new_P]


def overlap(neurons_NA: U16, pairs_P2: I64, per_layer: int) -> F32:
    """Share of common neurons of each pair of row numbers, float32 (P,)."""
    share_P = _shared(neurons_NA, pairs_P2, per_layer, 0) / np.float64(neurons_NA.shape[1])
    return np.asarray(share_P, np.float32)


def near(neurons_NA: U16, pairs_P2: I64, per_layer: int, threshold: float) -> Mask:
    """Whether the overlap of each pair reaches the threshold, decided in whole neurons, (P,)."""
    least = max(1, math.ceil(threshold * neurons_NA.shape[1] - _ROUNDING))
    reached_P: Mask = _shared(neurons_NA, pairs_P2, per_layer, least) >= least
    return reached_P


def collapse(ids_N: I64, hashes_N: U64, pairs_P2: I64) -> I64:
    """Id of each row's leader, (N,): its own when the row is kept.

    In canonical order, a row is collapsed onto the first kept row before it with which it has a
    verified pair, and is kept when there is none. Rows without a pair need not be among `ids_N`.
    Pairs hold ids, in any order, any way round and any number of times.
    """
    order_N = np.lexsort((ids_N, hashes_N))
    sorter_N = np.argsort(ids_N[order_N], kind="stable")  # rank of the i-th smallest id
    sorted_N = ids_N[order_N][sorter_N]
    if (sorted_N[1:] == sorted_N[:-1]).any():
        raise ValueError("ids are not unique")
    place_P2 = np.minimum(np.searchsorted(sorted_N, pairs_P2), len(ids_N) - 1)
    if len(pairs_P2) and (not len(ids_N) or (sorted_N[place_P2] != pairs_P2).any()):
        raise ValueError("a pair names an id that is not among the rows")
    rank_P2 = sorter_N[place_P2] if len(pairs_P2) else np.empty((0, 2), np.int64)
    earlier_P, later_P = rank_P2.min(1), rank_P2.max(1)
    by_later_P = np.lexsort((earlier_P, later_P))
    leader_R = _leaders(len(ids_N), earlier_P[by_later_P], later_P[by_later_P])
    leaders_N = np.empty(len(ids_N), np.int64)
    leaders_N[order_N] = ids_N[order_N][leader_R]
    return leaders_N


@jit
def _hash32(x: Any) -> Any:
    """A bijection of 32-bit numbers, so that no two neurons tie."""
    x = ((x ^ (x >> _S16)) * _F1) & _LOW
    x = ((x ^ (x >> _S13)) * _F2) & _LOW
    return x ^ (x >> _S16)


@jit
def _mix(x: Any) -> Any:
    x = (x ^ (x >> _S30)) * _M1
    x = (x ^ (x >> _S27)) * _M2
    return x ^ (x >> _S31)


@jit
def _hash_row(row_A: Any, per_layer: int, turn: Any, hashes_A: Any) -> None:
    for layer in range(len(row_A) // per_layer):
        base = (np.uint64(layer) << _S16) + turn * _ROUND
        for a in range(layer * per_layer, (layer + 1) * per_layer):
            hashes_A[a] = _hash32((base + np.uint64(row_A[a])) & _LOW)


@jit
def _band_keys(
    neurons_NA: Any, per_layer: int, leaf_N: Any, bands: int, rows: int, keys_NB: Any
) -> None:
    bins = bands * rows
    hashes_A = np.empty(neurons_NA.shape[1], np.uint64)
    least = np.empty(bins, np.uint64)
    for i in range(neurons_NA.shape[0]):
        turn = np.uint64(0)
        _hash_row(neurons_NA[i], per_layer, turn, hashes_A)
        whole = np.uint64(0)
        for h in hashes_A:
            whole += h * h
        leaf = _mix(np.uint64(leaf_N[i]) + _BAND)
        keys_NB[i, 0] = _mix(leaf ^ whole)
        least[:] = _NONE
        empty = bins
        while empty > 0:
            for h in hashes_A:
                b = (h * np.uint64(bins)) >> _S32
                if least[b] == _NONE:
                    empty -= 1
                least[b] = min(least[b], (turn << _S32) | h)  # a later turn never wins
            turn += np.uint64(1)
            if empty > 0:
                _hash_row(neurons_NA[i], per_layer, turn, hashes_A)
        for band in range(bands):
            key = leaf ^ _mix(np.uint64(band + 1) * _BAND)
            for b in range(band * rows, (band + 1) * rows):
                key = _mix(key ^ least[b])
            keys_NB[i, 1 + band] = key


@jit
def _shared(neurons_NA: Any, pairs_P2: Any, per_layer: int, least: int) -> Any:
    """Common neurons of each pair, int32 (P,), or some number < `least` if it is not reached.

    Marks take a sixth of the time of merging the two sorted lists, whose branches or loads wait
    for each other.
    """
    active = neurons_NA.shape[1]
    out = np.zeros(len(pairs_P2), np.int32)
    mark_W = np.zeros(2**16, np.int64)  # the last layer of a pair that held the neuron
    layer = 0
    for p in range(len(pairs_P2)):
        x, y = neurons_NA[pairs_P2[p, 0]], neurons_NA[pairs_P2[p, 1]]
        shared = 0
        for start in range(0, active, per_layer):
            layer += 1
            for a in range(start, start + per_layer):
                mark_W[x[a]] = layer
            for a in range(start, start + per_layer):
                if mark_W[y[a]] == layer:
                    shared += 1
            if shared + active - start - per_layer < least:
                break
        out[p] = shared
    return out


@jit
def _leaders(n: int, earlier_P: Any, later_P: Any) -> Any:
    """Rank of every rank's leader; pairs ascend by (later, earlier)."""
    leader_R = np.arange(n)
    for p in range(len(later_P)):
        i, j = later_P[p], earlier_P[p]
        if leader_R[i] == i and leader_R[j] == j:
            leader_R[i] = j
    return leader_R
