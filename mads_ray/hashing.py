"""Hashes of uids: random orders that depend on a uid and a seed alone, and checksums of sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mads_ray.arrays import I64, U64, Mask

# --- random orders ---
# A stream is the number of a random order of uids. Under one seed, the orders of different streams
# are independent. These are all streams that there are. Stored results depend on them: add a number
# where you need one, and never change one.

RandomStream = tuple[int, int]  # a seed and a stream

TIES = 0  # which of equal gains comes first
HELD_OUT_ROWS = 71  # rows that fine-tuning holds out; random set 70 has this stream too
CALIBRATION_ROWS = 2**32  # rows that calibrate
BASELINE_ORDER = 2**34  # the order of `--method random`, and ties of other methods
EVALUATED_RANDOM = 2**35  # the random core set of `evaluate`
EVALUATED_SET = 2**35 + 1  # its sample of a set: must not prefer what the sample of the pool does
EVALUATED_POOL = 2**35 + 2  # its sample of the pool


def random_set(number: int) -> int:
    """Stream of the random sets that a core set is compared with, numbered from 0: 1 and up."""
    return 1 + number


def epoch_order(epoch: int) -> int:
    """Stream of the order of rows in an epoch of fine-tuning: 1000 and up."""
    return 1000 + epoch


def exchange_start(depth: int) -> int:
    """Stream of the random set that an exchange starts from, by its depth: 2^33 and up."""
    return 2**33 + depth


# --- hashes ---

_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uid_words(uids: Sequence[str]) -> tuple[U64, U64]:
    """Split uids into their high and low 64-bit halves."""
    raw = np.frombuffer(bytes.fromhex("".join(uids)), dtype=">u8").astype(np.uint64)
    return raw[0::2], raw[1::2]


def isin_words(words_N2: U64, set_M2: U64) -> Mask:
    """Which of some uids, given as their halves (N, 2), are in a set of them (M, 2): (N,)."""
    both = np.dtype([("high", np.uint64), ("low", np.uint64)])
    first, second = (np.ascontiguousarray(w).view(both)[:, 0] for w in (words_N2, set_M2))
    return np.isin(first, second)


def row_ids(uids: Sequence[str]) -> I64:
    """Compact int64 ids: the first half of each uid. Unique in practice to about 10^9 rows."""
    return uid_words(uids)[0].view(np.int64)


def seeded_hash(uids: Sequence[str], seed: int, stream: int = 0) -> U64:
    """A pseudo-random uint64 for every uid that depends on (uid, seed, stream) alone."""
    return hash_words(*uid_words(uids), seed, stream)


def hash_words(high: U64, low: U64, seed: int, stream: int = 0) -> U64:
    """`seeded_hash` of uids given as their halves.

    This is SplitMix64's finaliser (Steele, Lea and Flood 2014) over both halves of the uid, so an
    order by it does not depend on shards, files or workers. Streams are independent orders.
    """
    with np.errstate(over="ignore"):
        key = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream) * np.uint64(
            0xD1B54A32D192ED03
        )
        return _mix(_mix(high ^ _mix(np.atleast_1d(key))) ^ low)


def _mix(x: U64) -> U64:
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def checksum(uids: Iterable[str]) -> str:
    """Order-independent checksum of a set of uids: the sum of their halves modulo 2^64, in hex."""
    ids = list(uids)
    if not ids:
        return f"{0:016x}"
    return checksum_of_words(np.stack(uid_words(ids), axis=1))


def checksum_of_words(words_N2: U64) -> str:
    """`checksum` of uids given as their halves."""
    with np.errstate(over="ignore"):
        return f"{int(words_N2.sum(dtype=np.uint64)):016x}"


def add_checksums(values: Iterable[str]) -> str:
    """The checksum of a union of disjoint sets."""
    return f"{sum(int(v, 16) for v in values) % 2**64:016x}"
