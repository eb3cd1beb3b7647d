"""Open any file system: local paths, file://, those that pyarrow knows, and the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pyarrow.fs as pafs

from mads_ray.errors import CorpusError
from mads_ray.paths import refuse_credentials

_FILE_URI = ("file://localhost/", "file:///")


def open_filesystem(path: str) -> tuple[Any, str]:
    """The pyarrow file system of a path or URI, and the path within it.

    Raises CorpusError for a scheme that cannot be opened and for a URI with credentials.
    """
    refuse_credentials(path)
    if path.startswith("hf://"):
        try:
            from huggingface_hub import HfFileSystem
        except ImportError as e:
            raise CorpusError(f"{path}: hf:// needs: pip install 'mads_ray[datasets]'") from e
        handler = pafs.FSSpecHandler(HfFileSystem())
        return pafs.PyFileSystem(handler), path.removeprefix("hf://")
    if path.startswith(_FILE_URI):
        # Not with pyarrow: it takes # and ? in a name for the end of the path.
        start = "/" + path.partition("://")[2].partition("/")[2]
        return pafs.LocalFileSystem(), os.path.abspath(os.fsdecode(unquote_to_bytes(start)))
    if "://" in path:
        try:
            return cast(tuple[Any, str], pafs.FileSystem.from_uri(path))
        except (OSError, ValueError) as e:
            raise CorpusError(f"{path}: cannot open this file system: {e}") from e
    return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))


def uri_of(pattern: str, fs: Any, path: str) -> str:
    """The full name of a file found through a pattern: a URI, or for local files the plain path."""
    if isinstance(fs, pafs.LocalFileSystem) or "://" not in pattern:
        return path
    uri = urlsplit(pattern)
    user, at, _ = uri.netloc.rpartition("@")
    query = f"?{uri.query}" if uri.query else ""
    # pyarrow decodes URIs; huggingface_hub does not.
    quoted = path if uri.scheme == "hf" else quote(path)
    return f"{uri.scheme}://{user}{at}{quoted}{query}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identifies one state of a file. Size in bytes; a value that is unknown is 0."""

    size: int
    mtime_ns: int
    inode: int = 0

    def changes(self, later: Stamp) -> str:
        """Say in words what changed; empty where nothing did."""
        if self.size != later.size:
            return f"it had {self.size:,} bytes and has {later.size:,}"
        # Nodes may see one time on a shared file system with different fractions of a microsecond.
        if self.mtime_ns and later.mtime_ns and abs(self.mtime_ns - later.mtime_ns) >= 1000:
            return "it was written to"
        if self.inode and later.inode and self.inode != later.inode:
            return "another file took its place"
        return ""


def stamp_of(path: str) -> Stamp:
    """The present state of a file, or of all files in a local folder. Raises FileNotFoundError."""
    fs, inner = open_filesystem(path)
    if isinstance(fs, pafs.LocalFileSystem):
        if os.path.isdir(inner):
            return folder_stamp(inner)
        stat = os.stat(inner)
        return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino)
    info = fs.get_file_info(inner)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(f"{path} is gone")
    return Stamp(info.size or 0, info.mtime_ns or 0)


def folder_stamp(path: str) -> Stamp:
    """The stamp of a datasets folder: all bytes in it, and the time of its newest file."""
    stats = [p.stat() for p in Path(path).rglob("*") if p.is_file()]
    newest = max((s.st_mtime_ns for s in stats), default=0)
    return Stamp(sum(s.st_size for s in stats), newest)
