"""Sizes and digests of files, by which a later run knows them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as it was written."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> KnownFile:
        """The file as it is now."""
        with path.open("rb") as f:
            return cls(path.stat().st_size, hashlib.file_digest(f, "sha256").hexdigest())

    def fits(self, path: Path) -> bool:
        """Whether the file is there and is the same."""
        try:
            return path.stat().st_size == self.bytes and KnownFile.of(path) == self
        except FileNotFoundError:
            return False


def known_files(root: Path, paths: list[Path]) -> dict[str, Any]:
    """Some files below a folder for a JSON file: by relative path, in order."""
    return {path.relative_to(root).as_posix(): asdict(KnownFile.of(path)) for path in sorted(paths)}
