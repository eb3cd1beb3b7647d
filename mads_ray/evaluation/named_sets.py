"""Core sets that a user names: another run, a core set's own files, or a list of uids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mads_ray.corpus.identity import uid_words
from mads_ray.corpus.row_text import MARK, loads
from mads_ray.errors import ConfigError
from mads_ray.evaluation.uids import U64, sorted_words
from mads_ray.ledger import RunFolder

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
