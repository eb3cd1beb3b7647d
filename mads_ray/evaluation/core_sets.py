"""Core sets as sorted uids, and the few rows with the smallest keys of a long stream.

A uid is stored as its two 64-bit halves (`hashing.uid_words`): 16 bytes, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mads_ray.arrays import U64
from mads_ray.corpus.row_text import MARK, loads
from mads_ray.errors import ConfigError
from mads_ray.hashing import isin_words, uid_words
from mads_ray.run_folder import RunFolder


def sorted_words(words_N2: U64) -> U64:
    """Each uid once, in ascending order: (M, 2) halves (high, low), column by column in memory."""
    order_N = np.lexsort((words_N2[:, 1], words_N2[:, 0]))
    found_N2 = words_N2[order_N]
    new_N = np.ones(len(found_N2), bool)
    new_N[1:] = (found_N2[1:] != found_N2[:-1]).any(1)
    # By columns: `contains` searches the first one, once for each shard.
    return np.asfortranarray(found_N2[new_N])


def contains(set_M2: U64, words_N2: U64) -> npt.NDArray[np.bool_]:
    """Which of some uids (N, 2) are in a set from `sorted_words`: (N,).

    A shard holds a range of uids, so only the slice of the set in that range is compared.
    """
    if not len(words_N2) or not len(set_M2):
        return np.zeros(len(words_N2), bool)
    start = np.searchsorted(set_M2[:, 0], words_N2[:, 0].min(), "left")
    stop = np.searchsorted(set_M2[:, 0], words_N2[:, 0].max(), "right")
    return isin_words(words_N2, set_M2[start:stop])


class Smallest:
    """The k uids with the smallest keys of a stream (ties by uid). It holds 2 k and one part."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._keys: list[U64] = []
        self._words: list[U64] = []
        self._held = 0

    def add(self, keys_N: U64, words_N2: U64) -> None:
        """Add the next part of the stream: keys (N,) of uids (N, 2)."""
        self._keys.append(keys_N)
        self._words.append(words_N2)
        self._held += len(keys_N)
        if self._held > 2 * self._k:
            self._compact()

    def words(self) -> U64:
        """The uids so far, (at most k, 2), as `sorted_words`."""
        self._compact()
        return sorted_words(self._words[0])

    def _compact(self) -> None:
        keys_N = np.concatenate([*self._keys, np.empty(0, np.uint64)])
        words_N2 = np.concatenate([*self._words, np.empty((0, 2), np.uint64)])
        first = np.lexsort((words_N2[:, 1], words_N2[:, 0], keys_N))[: self._k]
        self._keys, self._words, self._held = [keys_N[first]], [words_N2[first]], len(first)


_UID = re.compile(r"[0-9a-f]{32}")


def read_core_set(path: str | Path) -> U64:
    """Read the uids of a core set: (K, 2) as `sorted_words`.

    `path`: the folder of a finished run, core_set/part-*.jsonl (folder or file; `_mads.uid` is
    read), or a text file with one uid a line. Raises ConfigError where there is no such file or no
    uid in it, or where a line holds something else.
    """
    where = Path(path).expanduser()
    if not where.exists():
        raise ConfigError(f"{where} does not exist: it must be a run folder, a core set or uids")
    parts = []
    if RunFolder(where).run_json.exists():
        for part in sorted(RunFolder(where).selection.glob("part-*.parquet")):
            picked = pq.read_table(part, columns=["uid"], filters=pc.field("rank").is_valid())
            parts.append(_words(picked.column("uid").to_pylist()))
    elif where.is_dir():
        parts = [_words(_of_jsonl(part)) for part in sorted(where.glob("part-*.jsonl"))]
    else:
        parts = [_words(_of_jsonl(where) if where.suffix == ".jsonl" else _of_text(where))]
    found = sorted_words(np.concatenate([*parts, np.empty((0, 2), np.uint64)]))
    if not len(found):
        raise ConfigError(f"{where} holds no core set: a run folder, part-*.jsonl or uids")
    return found


def _words(uids: Iterable[str]) -> U64:
    return np.stack(uid_words(list(uids)), axis=1)


def _of_jsonl(path: Path) -> Iterable[str]:
    with path.open("rb") as lines:  # in text mode a CR within a row would end the line
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                uid = loads(line)[MARK]["uid"]
            except (ValueError, KeyError, TypeError, RecursionError) as e:
                raise ConfigError(f"{path}:{number}: a core set's row has a _mads.uid") from e
            yield _checked(uid, path, number)


def _of_text(path: Path) -> Iterable[str]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _checked(line.strip(), path, number)


def _checked(uid: object, path: Path, line: int) -> str:
    if not isinstance(uid, str) or not _UID.fullmatch(uid):
        raise ConfigError(f"{path}:{line}: {str(uid)[:40]!r} is no uid (32 hexadecimal digits)")
    return uid
