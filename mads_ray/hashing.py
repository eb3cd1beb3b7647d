"""Hashes of uids: random orders that depend on a uid and a seed alone, and checksums of sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uid_words(uids: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Split uids into their high and low 64-bit halves."""
    raw = np.frombuffer(bytes.fromhex("".join(uids)), dtype=">u8").astype(np.uint64)
    return raw[0::2], raw[1::2]


def isin_words(
    words_N2: npt.NDArray[np.uint64], set_M2: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """Which of some uids, given as their halves (N, 2), are in a set of them (M, 2): (N,)."""
    both = np.dtype([("high", np.uint64), ("low", np.uint64)])
    first, second = (np.ascontiguousarray(w).view(both)[:, 0] for w in (words_N2, set_M2))
    return np.isin(first, second)


def row_ids(uids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Compact int64 ids: the first half of each uid. Unique in practice to about 10^9 rows."""
    return uid_words(uids)[0].view(np.int64)


def seeded_hash(uids: Sequence[str], seed: int, stream: int = 0) -> npt.NDArray[np.uint64]:
    """A pseudo-random uint64 for every uid that depends on (uid, seed, stream) alone."""
    return hash_words(*uid_words(uids), seed, stream)


def hash_words(
    high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], seed: int, stream: int = 0
) -> npt.NDArray[np.uint64]:
    """`seeded_hash` of uids given as their halves.

    This is SplitMix64's finaliser (Steele, Lea and Flood 2014) over both halves of the uid, so an
    order by it does not depend on shards, files or workers. Streams are independent orders.
    """
    with np.errstate(over="ignore"):
        key = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream) * np.uint64(
            0xD1B54A32D192ED03
        )
        return _mix(_mix(high ^ _mix(np.atleast_1d(key))) ^ low)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def checksum(uids: Iterable[str]) -> str:
    """Order-independent checksum of a set of uids: the sum of their halves modulo 2^64, in hex."""
    ids = list(uids)
    if not ids:
        return f"{0:016x}"
    high, low = uid_words(ids)
    with np.errstate(over="ignore"):
        return f"{int(high.sum() + low.sum()):016x}"


def add_checksums(values: Iterable[str]) -> str:
    """The checksum of a union of disjoint sets."""
    return f"{sum(int(v, 16) for v in values) % 2**64:016x}"
