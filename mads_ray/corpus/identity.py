"""What makes two examples the same: a 128-bit hash of the canonical conversation."""

from __future__ import annotations

import functools
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mads_ray.corpus.conversation import Conversation

_SHARD_BITS = 32
_SHORT, _MOST_MARKS, _LAST_MARK = 1024, 30, 0x1EFFF
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uid_of(conversation: Conversation) -> str:
    """32 hex digits: BLAKE2b-128 of all that the conversation holds (text as NFC, outer white space
    ignored)."""
    if conversation.is_plain:  # nearly all; the encoder takes three times as long for lists
        turns = (f'["{m.role}",{_ENCODE(_canonical(m.content))}]' for m in conversation.messages)
        text = f"[{','.join(turns)}]"
    else:
        text = _ENCODE(_canonical(conversation.plain()))
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def _canonical(value: Any) -> Any:
    if type(value) is str:
        return value.strip() if value.isascii() else _composed(value).strip()
    if type(value) is dict:
        return {k: _canonical(v) for k, v in value.items()}
    return [_canonical(v) for v in value]


def _composed(text: str) -> str:
    """NFC. Python sorts a run of combining marks in quadratic time, so in a long text runs that no
    language has stay as they are: of over 30 marks, the limit of Unicode's Stream-Safe Text Format
    (UAX 15)."""
    if len(text) <= _SHORT:
        return unicodedata.normalize("NFC", text)
    code_T = np.frombuffer(text.encode("utf-32-le"), "<u4")
    is_mark_T = np.append(_marks()[np.minimum(code_T, _LAST_MARK + 1)], False)
    edges = np.flatnonzero(np.diff(is_mark_T, prepend=False))
    starts, ends = edges[0::2], edges[1::2]
    long = ends - starts > _MOST_MARKS
    pieces, at = [], 0
    for start, end in zip(starts[long].tolist(), ends[long].tolist(), strict=True):
        pieces += [unicodedata.normalize("NFC", text[at:start]), text[start:end]]
        at = end
    return "".join([*pieces, unicodedata.normalize("NFC", text[at:])])


@functools.cache
def _marks() -> npt.NDArray[np.bool_]:
    """Which code points, or what they decompose to, begin with a combining mark."""
    is_mark = np.zeros(_LAST_MARK + 2, np.bool_)
    for code in range(0x300, _LAST_MARK + 1):
        is_mark[code] = unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0]) != 0
    return is_mark


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


def shard_bounds(shard: int, n_shards: int) -> tuple[str, str]:
    """Half-open range [low, high) of uid prefixes (8 hex digits) that belongs to a shard."""
    scale = 2**_SHARD_BITS
    low, high = -(-shard * scale // n_shards), -(-(shard + 1) * scale // n_shards)
    return f"{low:08x}", f"{high:08x}" if high < scale else "g"  # "g" sorts after every hex digit


def shard_count(examples: int, shard_rows: int) -> int:
    """Number of canonical shards, from the corpus alone.

    Small corpora get up to 16 shards of at least 64 rows, so that a laptop's cores share the work.
    """
    small = min(16, examples // 64)
    return max(1, small, -(-examples // shard_rows))
