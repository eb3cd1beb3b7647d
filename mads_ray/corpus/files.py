"""Find the input files behind patterns, on any file system pyarrow knows."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import pyarrow.fs as pafs

from mads_ray.errors import CorpusError

_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_GLOB = frozenset("*?[")
_NOT_ROWS = ("dataset_info.json", "dataset_dict.json", "state.json")  # of datasets.save_to_disk


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the corpus. `path` is absolute or a URI; size in bytes, `mtime_ns` may be 0."""

    path: str
    format: str  # json, jsonl, parquet, dataset
    compression: str | None
    size: int
    mtime_ns: int


def discover(patterns: Sequence[str], leave_out: str | None = None) -> list[InputFile]:
    """Expand files, folders and globs to a sorted list without repetition.

    Files under the absolute folder `leave_out` (the run's own output) are no input. Raises
    CorpusError for a pattern that matches nothing or a named file of unknown format.
    """
    own = None if leave_out is None else os.path.join(leave_out, "")
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        matches = _expand(pattern)
        if not matches:
            raise CorpusError(
                f"--input {pattern}: no file matches (looked for "
                f"{', '.join(_SUFFIXES)}, each also with {' or '.join(_COMPRESSIONS)})"
            )
        found.update((f.path, f) for f in matches if own is None or not f.path.startswith(own))
    return [found[p] for p in sorted(found)]


def open_filesystem(path: str) -> tuple[Any, str]:
    """The pyarrow file system of a path or URI, and the path within it."""
    if path.startswith("hf://"):
        try:
            from huggingface_hub import HfFileSystem
        except ImportError as e:
            raise CorpusError(f"{path}: hf:// needs: pip install 'mads_ray[datasets]'") from e
        handler = pafs.FSSpecHandler(HfFileSystem())
        return pafs.PyFileSystem(handler), path.removeprefix("hf://")
    if "://" in path:
        _refuse_credentials(path)
        try:
            return cast(tuple[Any, str], pafs.FileSystem.from_uri(path))
        except (OSError, ValueError) as e:
            raise CorpusError(f"{path}: cannot open this file system: {e}") from e
    return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))


def _refuse_credentials(path: str) -> None:
    uri = urlsplit(path)
    words = ("secret", "password", "token", "access_key")
    if ":" in uri.netloc.rpartition("@")[0] or any(w in uri.query.lower() for w in words):
        raise CorpusError(
            f"--input {uri.scheme}://...: a URI is stored with the run and must not hold "
            "credentials; put them into the environment"
        )


def _expand(pattern: str) -> list[InputFile]:
    fs, path = open_filesystem(pattern)
    scheme, query = _uri_parts(pattern, fs)
    parts = Path(path).parts
    fixed = next((i for i, p in enumerate(parts) if _GLOB & set(p)), len(parts))
    base = str(Path(*parts[:fixed]))
    try:
        info = fs.get_file_info(path)
        if info.type == pafs.FileType.File:
            return [_describe(info, scheme, query, named=True)]
        if info.type == pafs.FileType.Directory:
            if any(Path(path, n).exists() for n in ("dataset_info.json", "dataset_dict.json")):
                return [InputFile(path, "dataset", None, *_folder_stamp(path))]
            infos = fs.get_file_info(pafs.FileSelector(path, recursive=True))
        elif fixed < len(parts):
            selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
            infos = [i for i in fs.get_file_info(selector) if _glob_match(i.path, path)]
        else:
            return []
    except OSError as e:
        raise CorpusError(f"--input {pattern}: cannot list it: {e}") from e
    files = (
        _describe(i, scheme, query, named=False) for i in infos if i.type == pafs.FileType.File
    )
    return [f for f in files if f.format]


def _uri_parts(pattern: str, fs: Any) -> tuple[str, str]:
    """What goes before and after a path to make it a URI again; nothing for local files."""
    if isinstance(fs, pafs.LocalFileSystem) or "://" not in pattern:
        return "", ""
    uri = urlsplit(pattern)
    user, at, _ = uri.netloc.rpartition("@")
    return f"{uri.scheme}://{user}{at}", f"?{uri.query}" if uri.query else ""


def _glob_match(path: str, pattern: str) -> bool:
    """Like a shell: `*` stays within a folder, `**` crosses any number of them."""
    if "**" in pattern:
        flat = pattern.replace("**/", "")
        return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, flat)
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


def _describe(info: Any, scheme: str, query: str, *, named: bool) -> InputFile:
    stem, suffix = os.path.splitext(info.path)
    compression = _COMPRESSIONS.get(suffix.lower())
    if compression:
        suffix = os.path.splitext(stem)[1]
    file_format = _SUFFIXES.get(suffix.lower(), "")
    if file_format == "parquet" and compression:
        file_format = ""
    if named and not file_format:
        raise CorpusError(
            f"{info.path}: unknown format; files end in {', '.join(_SUFFIXES)}, "
            f"JSON files optionally in {' or '.join(_COMPRESSIONS)}"
        )
    if os.path.basename(info.path) in _NOT_ROWS:
        file_format = ""
    # pyarrow unquotes URIs; huggingface_hub takes paths as they are.
    path = info.path if scheme == "hf://" else quote(info.path)
    path = f"{scheme}{path}{query}" if scheme else info.path
    return InputFile(path, file_format, compression, info.size, info.mtime_ns or 0)


def _folder_stamp(path: str) -> tuple[int, int]:
    stats = [p.stat() for p in Path(path).rglob("*") if p.is_file()]
    return sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)
