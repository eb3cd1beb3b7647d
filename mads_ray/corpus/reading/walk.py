"""Walk through a folder: every file once, always in the same order, also with symbolic links."""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from mads_ray.corpus.reading.filesystem import folder_stamp
from mads_ray.corpus.reading.patterns import Pattern, Places
from mads_ray.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (or a `datasets.save_to_disk` folder) below the named folder.

    `real` is its path without symbolic links. `below`: the names from the folder down to the file.
    `left_out` says why it is not read.
    """

    path: str
    real: str
    below: tuple[str, ...]
    size: int = 0
    mtime_ns: int = 0
    saved: bool = False
    left_out: str = ""


def walk_local(root: str, pattern: Pattern, own: str | None) -> Iterator[Entry]:
    """Yield the entries below a local folder. Skips the folder `own` (a real path). Raises OSError.

    Where several paths lead to a folder it is entered once, by one without links if there is one.
    """
    hidden = Pattern(pattern.parts, hidden=True)
    seen: set[tuple[str, Places]] = set()
    folders = [(root, os.path.realpath(root), pattern.start(), ())]
    links: deque[Any] = deque()
    while folders or links:
        is_link = not folders
        path, real, places, below = folders.pop() if folders else links.popleft()
        if (real, places) in seen:
            if is_link:
                yield Entry(path, path, below, left_out="link")
            continue
        seen.add((real, places))
        if pattern.takes_all(places) and (saved := list(saved_dataset(path, real, below))):
            yield from saved
            continue
        with os.scandir(path) as listing:
            children = sorted(listing, key=lambda c: c.name)
        for child in children:
            beneath = (*below, child.name)
            inside = os.path.join(real, child.name)
            if child.is_symlink():
                inside = os.path.realpath(inside)
            if own is not None and inside == own:
                continue
            if not _is_folder(child):
                if pattern.matches(places, child.name):
                    yield _file(child, inside, beneath)
                elif hidden.matches(places, child.name):
                    yield Entry(child.path, child.path, beneath, left_out="hidden")
                continue
            if pattern.matches(places, child.name) and not pattern.takes_all(places):
                yield from saved_dataset(child.path, inside, beneath)  # sets/* names it whole
            after = pattern.into(places, child.name)
            if after:
                queue = links if child.is_symlink() else folders
                queue.append((child.path, inside, after, beneath))
            elif hidden.into(places, child.name):
                yield Entry(child.path, child.path, beneath, left_out="hidden")


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # the link leads to itself
        return False


def _file(child: os.DirEntry[str], real: str, below: tuple[str, ...]) -> Entry:
    try:
        stat = child.stat()
        if child.is_file():
            return Entry(child.path, real, below, stat.st_size, stat.st_mtime_ns)
        return Entry(child.path, child.path, below, left_out="special")
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return Entry(child.path, child.path, below, left_out="dangling")


def walk_remote(fs: Any, root: str, pattern: Pattern) -> Iterator[Entry]:
    """Yield the entries below a folder of a pyarrow file system. Raises OSError."""
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    hidden = Pattern(pattern.parts, hidden=True)
    for info in fs.get_file_info(selector):
        if info.type != pafs.FileType.File:
            continue
        below = tuple(info.path[len(root) :].strip("/").split("/"))
        if _matches(pattern, below):
            yield Entry(info.path, info.path, below, info.size or 0, info.mtime_ns or 0)
        elif _matches(hidden, below):
            yield Entry(info.path, info.path, below, left_out="hidden")


def _matches(pattern: Pattern, below: tuple[str, ...]) -> bool:
    places = pattern.start()
    for name in below[:-1]:
        places = pattern.into(places, name)
    return pattern.matches(places, below[-1])


def saved_dataset(path: str, real: str, below: tuple[str, ...]) -> Iterator[Entry]:
    """Yield the datasets of a local `save_to_disk` folder: one, or one for each split.

    Other folders have none. A file `dataset_info.json` alone does not count: trainers list files
    under this name.
    """
    if Path(path, "dataset_dict.json").is_file():
        try:
            splits = json.loads(Path(path, "dataset_dict.json").read_bytes())["splits"]
            parts = [(os.path.join(path, s), os.path.join(real, s), (*below, s)) for s in splits]
        except (ValueError, KeyError, TypeError) as e:
            raise CorpusError(
                f"{path}: not a datasets.save_to_disk folder: its dataset_dict.json has no list "
                "of splits"
            ) from e
    elif all(Path(path, n).is_file() for n in ("state.json", "dataset_info.json")):
        parts = [(path, real, below)]
    else:
        return
    for folder, inside, names in parts:
        stamp = folder_stamp(folder)
        yield Entry(folder, inside, names, stamp.size, stamp.mtime_ns, saved=True)
