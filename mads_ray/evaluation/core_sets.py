"""Sets of uids as sorted words, and the few rows with the smallest keys of a long stream.

A uid is two words of 64 bits (`corpus.identity.uid_words`): 16 bytes an id, nothing else is kept.
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
    """Each uid once, ascending by (high, low): (M, 2), column by column in memory."""
    order_N = np.lexsort((words_N2[:, 1], words_N2[:, 0]))
    found_N2 = words_N2[order_N]
    new_N = np.ones(len(found_N2), bool)
    new_N[1:] = (found_N2[1:] != found_N2[:-1]).any(1)
    # Columns, because `contains` looks its slice up in the first one, once a shard.
    return np.asfortranarray(found_N2[new_N])


def contains(set_M2: U64, words_N2: U64) -> npt.NDArray[np.bool_]:
    """Which of some uids (N, 2) are in a set from `sorted_words`: (N,).

    Shards hold ranges of uids, so that only the slice of the set in their range is compared.
    """
    if not len(words_N2) or not len(set_M2):
        return np.zeros(len(words_N2), bool)
    start = np.searchsorted(set_M2[:, 0], words_N2[:, 0].min(), "left")
    stop = np.searchsorted(set_M2[:, 0], words_N2[:, 0].max(), "right")
    return isin_words(words_N2, set_M2[start:stop])


class Smallest:
    """The k uids with the smallest keys (ties by uid) of a stream; it holds 2 k and a part."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._keys: list[U64] = []
        self._words: list[U64] = []
        self._held = 0

    def add(self, keys_N: U64, words_N2: U64) -> None:
        """Take the next part of the stream in: keys (N,) of uids (N, 2)."""
        self._keys.append(keys_N)
        self._words.append(words_N2)
        self._held += len(keys_N)
        if self._held > 2 * self._k:
            self._compact()

    def words(self) -> U64:
        """The uids (at most k, 2) as `sorted_words`."""
        self._compact()
        return sorted_words(self._words[0])

    def _compact(self) -> None:
        keys_N = np.concatenate([*self._keys, np.empty(0, np.uint64)])
        words_N2 = np.concatenate([*self._words, np.empty((0, 2), np.uint64)])
        first = np.lexsort((words_N2[:, 1], words_N2[:, 0], keys_N))[: self._k]
        self._keys, self._words, self._held = [keys_N[first]], [words_N2[first]], len(first)


_UID = re.compile(r"[0-9a-f]{32}")


def read_core_set(path: str | Path) -> U64:
    """uids (K, 2) as `sorted_words` of a finished run's folder, of core_set/part-*.jsonl (folder or
    file; `_mads.uid`), or of a text file with a uid a line.

    Raises ConfigError where there is no such file, no uid, or something else in a uid's place.
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
    with path.open("rb") as lines:  # as text, a CR within a row would end it
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
