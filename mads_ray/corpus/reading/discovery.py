"""Find the input files behind patterns, on any file system that pyarrow knows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from mads_ray.corpus.reading.filesystem import open_filesystem, uri_of
from mads_ray.corpus.reading.formats import READ, format_of, is_metadata, stem_of, suffix_of
from mads_ray.corpus.reading.patterns import Pattern
from mads_ray.corpus.reading.splits import ALL, answers, is_wanted, split_in, split_of
from mads_ray.corpus.reading.walk import Entry, walk_local, walk_remote
from mads_ray.errors import CorpusError
from mads_ray.ledger import LeftOut

_REASONS = 8  # in one line
_GLOB = frozenset("*?[")
_WHY = {
    "hidden": "hidden",
    "metadata": "with metadata, not rows",
    "link": "reached by another path",
    "dangling": "a link to nothing",
    "special": "not a regular file",
}


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the corpus. `path` is absolute or a URI; size in bytes, `mtime_ns` may be 0.

    `named`: the user named this file; it was not found in a folder.
    """

    path: str
    format: str  # json, jsonl, csv, tsv, parquet, arrow, dataset
    compression: str | None
    size: int
    mtime_ns: int
    named: bool = field(default=False, compare=False)

    def identity(self) -> dict[str, Any]:
        """What identifies this file in its present state."""
        return {k: v for k, v in asdict(self).items() if k != "named"}


@dataclass(frozen=True, slots=True)
class Discovered:
    """The files of a corpus, sorted by path, and the files beside them that are not read."""

    files: list[InputFile]
    left_out: tuple[LeftOut, ...] = ()

    def lines(self) -> Iterator[str]:
        """Say in at most two lines what is left out."""
        others = [x for x in self.left_out if x.why != "split"]
        if others:
            yield f"left out {_files(others)}: {_reasons(others)}"
        splits = [x for x in self.left_out if x.why == "split"]
        if splits:
            counts = ", ".join(f"{x.files} {x.what}" for x in splits)
            yield (
                f"left out {_files(splits)} of other splits: {counts} (e.g. {splits[0].example}); "
                "--split all reads all, and a file that is named itself is always read"
            )


def _files(left_out: Sequence[LeftOut]) -> str:
    count = sum(x.files for x in left_out)
    return f"{count} file{'s' * (count != 1)}"


def _reasons(left_out: Sequence[LeftOut]) -> str:
    shown = [f"{x.files} {_WHY.get(x.why, x.what)}" for x in left_out[:_REASONS]]
    if len(left_out) > _REASONS:
        shown.append(f"{sum(x.files for x in left_out[_REASONS:])} others")
    return ", ".join(shown)


@dataclass(slots=True)
class _Find:
    """A file that may become an input. `key` is the same for all paths to one file."""

    key: str
    path: str
    entry: Entry
    file: InputFile | None
    why: str = ""
    what: str = ""


def discover(
    patterns: Sequence[str], leave_out: str | None = None, splits: Sequence[str] = ()
) -> Discovered:
    """Expand files, folders and globs to a sorted list without repetition.

    Where several paths lead to one file it is read once, by a path without symbolic links if there
    is one. Files in the absolute folder `leave_out` (the run's own output) are not read. `splits`:
    those to read in folders (see CorpusConfig.split). Raises CorpusError for a pattern with nothing
    to read, for a named file of unknown format, and for a split that no file has.
    """
    own = None if leave_out is None else os.path.realpath(leave_out)
    found: dict[str, _Find] = {}
    left: dict[str, _Find] = {}
    for pattern in patterns:
        finds = list(_expand(pattern, own, splits))
        if not any(f.file for f in finds):
            raise CorpusError(_nothing(pattern, finds))
        for find in finds:
            if find.file is None:
                left.setdefault(find.path, find)
            elif find.key in found:
                kept, other = sorted((found[find.key], find), key=_preference)
                found[find.key] = kept
                if other.path != kept.path:
                    left[other.path] = _Find("", other.path, other.entry, None, "link")
            else:
                found[find.key] = find
    files = [f.file for f in found.values() if f.file is not None]
    _require_splits(splits, list(found.values()), list(left.values()))
    paths = {f.path for f in files}
    left_out = _counted([f for f in left.values() if f.path not in paths])
    return Discovered(sorted(files, key=lambda f: f.path), left_out)


def _preference(find: _Find) -> tuple[bool, bool, str]:
    assert find.file is not None
    return find.path != find.key, not find.file.named, find.path


def _counted(left: Sequence[_Find]) -> tuple[LeftOut, ...]:
    counts = Counter((f.why, f.what) for f in left)
    examples = {(f.why, f.what): f.path for f in sorted(left, key=lambda f: f.path, reverse=True)}
    order = sorted(counts, key=lambda k: (k[0] == "split", -counts[k], k))
    # A name need not be UTF-8, but run.json is.
    return tuple(LeftOut(*k, counts[k], _shown(examples[k])) for k in order)


def _require_splits(wanted: Sequence[str], found: Sequence[_Find], left: Sequence[_Find]) -> None:
    for split in wanted:
        if split != ALL and not any(answers(split, _stems(f.entry)) for f in found):
            others = [f for f in (*found, *left) if f.file is not None or f.why == "split"]
            there = sorted({split_of(_stems(f.entry)) for f in others})
            raise CorpusError(
                f"--split {split}: no input file is of this split (there are: {', '.join(there)})"
            )


def _nothing(pattern: str, finds: Sequence[_Find]) -> str:
    there = [x for x in _counted(finds) if x.why != "split"]
    splits = [x for x in _counted(finds) if x.why == "split"]
    if splits:
        counts = ", ".join(f"{x.files} {x.what}" for x in splits)
        asked = ",".join(x.what for x in splits)
        return (
            f"--input {_shown(pattern)}: nothing is left to read: {_files(splits)} of other splits "
            f"({counts}); --split {asked} reads them"
        )
    return f"--input {_shown(pattern)}: no file matches (looked for {READ})" + (
        f"; there: {_reasons(there)}" if there else ""
    )


def _expand(pattern: str, own: str | None, splits: Sequence[str]) -> Iterator[_Find]:
    """All finds of one pattern. Raises CorpusError for one that cannot be listed."""
    try:
        os.fsencode(pattern)
    except UnicodeEncodeError as e:
        raise CorpusError(f"--input {_shown(pattern)}: this is no file name") from e
    if not pattern:
        raise CorpusError("--input '': an empty path names nothing")
    if "\0" in pattern:
        raise CorpusError(f"--input {pattern!r}: a path cannot hold a NUL character")
    fs, path = open_filesystem(pattern)
    local = isinstance(fs, pafs.LocalFileSystem)
    parts = Path(path).parts
    fixed = next((i for i, p in enumerate(parts) if _GLOB & set(p)), len(parts))
    try:
        if (entry := _named(fs, path, local)) is not None:
            yield _find(pattern, fs, entry, named=True)
            return
        root, glob = path, Pattern()
        if not _is_folder(fs, path, local):
            root, glob = str(Path(*parts[:fixed])), Pattern(parts[fixed:])
            if fixed == len(parts) or not _is_folder(fs, root, local):
                return
        asked = {s for p in glob.parts if (s := split_in(os.path.splitext(p)[0]))}
        whole = local and Path(root, "dataset_dict.json").is_file()
        walk = walk_local(root, glob, own) if local else walk_remote(fs, root, glob)
        for entry in walk:
            named = entry.saved and (whole or not entry.below)
            find = _find(pattern, fs, entry, named=named)
            if find.file is None or not entry.below:
                pass  # nothing to read, or the pattern names a dataset itself
            elif not is_wanted(_stems(entry), splits, asked):
                find.file, find.why, find.what = None, "split", split_of(_stems(entry))
            yield find
    except OSError as e:
        raise CorpusError(f"--input {_shown(pattern)}: cannot list it: {e}") from e


def _named(fs: Any, path: str, local: bool) -> Entry | None:
    """The file whose path is exactly the pattern."""
    if local:
        if not os.path.isfile(path):
            return None
        stat = os.stat(path)
        name = (os.path.basename(path),)
        return Entry(path, os.path.realpath(path), name, stat.st_size, stat.st_mtime_ns)
    info = fs.get_file_info(path)
    if info.type != pafs.FileType.File:
        return None
    name = (info.base_name,)
    return Entry(info.path, info.path, name, info.size or 0, info.mtime_ns or 0)


def _is_folder(fs: Any, path: str, local: bool) -> bool:
    if local:
        return os.path.isdir(path)
    return bool(fs.get_file_info(path).type == pafs.FileType.Directory)


def _find(pattern: str, fs: Any, entry: Entry, *, named: bool) -> _Find:
    path = uri_of(pattern, fs, entry.path)
    key = entry.real if path == entry.path else path
    find = _Find(key, path, entry, None, entry.left_out)
    if entry.left_out:
        return find
    file_format, compression = ("dataset", None) if entry.saved else format_of(entry.path)
    if not named and not entry.saved and is_metadata(entry.path):
        find.why = "metadata"
    elif not file_format:
        if named:
            raise CorpusError(f"{_shown(path)}: unknown format; files end in {READ}")
        find.why, find.what = "format", _shown(suffix_of(entry.path))
    else:
        if _shown(path) != path:
            raise CorpusError(f"{_shown(path)}: the name of this file is not UTF-8; rename it")
        find.file = InputFile(
            path, file_format, compression, entry.size, entry.mtime_ns, named=named
        )
    return find


def _shown(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()


def _stems(entry: Entry) -> list[str]:
    """Names of the folders below the named one, and of the file without its suffixes."""
    *folders, name = entry.below or (os.path.basename(entry.path),)
    return [*folders, name if entry.saved else stem_of(name)]
