"""Questions from a folder of task files: TASK.jsonl or TASK.jsonl.gz, one row a line.

A row has id, split, kind ("mc": prompt, choices, answer; "mc_multi": prompt, best, correct,
incorrect) and what its format in formats.py needs. Rows of other kinds and splits are left out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from mads_ray.errors import ConfigError
from mads_ray.finetune.formats import FORMATS, Question

_KINDS = ("mc", "mc_multi")


def load(
    folder: str | Path, limit: int | None = None, tasks: Sequence[str] | None = None
) -> list[Question]:
    """At most `limit` test questions of each task, in the order of tasks and ids.

    Which ones does not depend on the order of the file: those that `mini_ids.json` names come
    first, then all others, each by a hash of the id; so a lower limit is part of a higher one.
    Without `tasks`, all files whose format is known; with an empty list none. Raises ConfigError.
    """
    folder = Path(folder)
    if tasks is not None and not tasks:
        return []
    present = _files(folder)
    wanted = sorted(set(tasks) if tasks is not None else present.keys() & FORMATS.keys())
    unknown = [t for t in wanted if t not in FORMATS or t not in present]
    if unknown or not wanted:
        known = ", ".join(sorted(present.keys() & FORMATS.keys())) or "none"
        raise ConfigError(
            f"{folder}: no task file for {', '.join(unknown) or 'anything'} (there are: {known})"
        )
    return [q for t in wanted for q in _of_task(folder, t, limit)]


def rows_of(
    folder: str | Path,
    task: str,
    kinds: Collection[str],
    limit: int | None = None,
    split: str = "test",
    usable: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> list[dict[str, Any]]:
    """At most `limit` rows of a task's file that are of these kinds, this split and usable.

    Chosen and ordered as by `load`. Raises ConfigError.
    """
    folder = Path(folder)
    file = _files(folder).get(task)
    if file is None:
        raise ConfigError(f"{folder}: there is no {task}.jsonl or {task}.jsonl.gz")
    first = set(_mini(folder).get(task, ()))
    rows = [r for r in _rows(file) if r.get("kind") in kinds and r.get("split") == split]
    try:
        rows.sort(key=lambda r: (r["id"] not in first, _hash(r["id"])))
        return sorted([r for r in rows if usable(r)][:limit], key=lambda r: str(r["id"]))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ConfigError(f"{file}: a row does not have what {task} needs: {e!r}") from e


def _of_task(folder: Path, task: str, limit: int | None) -> list[Question]:
    rows = rows_of(folder, task, _KINDS, limit)
    try:
        return [FORMATS[task].build(task, r) for r in rows]
    except (KeyError, TypeError, ValueError) as e:
        raise ConfigError(f"{folder}: a row does not have what {task} needs: {e!r}") from e


def _files(folder: Path) -> dict[str, Path]:
    return {f.name.split(".jsonl")[0]: f for f in sorted(folder.glob("*.jsonl*"))}


def _mini(folder: Path) -> dict[str, list[str]]:
    file = folder / "mini_ids.json"
    found: dict[str, list[str]] = {}
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
    return found


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
            yield from (json.loads(line) for line in stream if line.strip())
    except (OSError, EOFError, ValueError) as e:
        raise ConfigError(f"{file}: not a file of JSON lines: {e}") from e


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
