"""Write files that are whole or absent: under a temporary name first, which is then renamed."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mads_ray.printable import is_utf8


def cache_folder() -> Path:
    """The folder on this machine for files that can be made again."""
    return Path(os.environ.get("MADS_RAY_CACHE") or Path.home() / ".cache" / "mads_ray")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary sibling of `path` and rename the result to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name begins with a dot, so that no glob `part-*` finds a torn file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with _told(path):
            write(temporary)
        with temporary.open("rb") as f:
            os.fsync(f.fileno())  # a marker must not survive a crash that destroys its data
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the file in an OSError: of a full disk numpy says "46328 requested and 3568 written"."""
    try:
        yield
    except OSError as e:
        if e.filename is not None:
            raise
        if e.errno is None:
            raise OSError(errno.ENOSPC, f"the disk may be full ({e})", str(path)) from e
        raise OSError(e.errno, e.strerror or str(e), str(path)) from e


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all. Line ends stay as they are."""
    data = text.encode("utf-8")

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_whole(path, write)


def write_json(path: Path, value: Any) -> None:
    """Write indented UTF-8 JSON, whole or not at all."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    if not is_utf8(text):  # half a surrogate pair, as in a path that is not UTF-8
        text = json.dumps(value, indent=1)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; None when it does not exist."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_parquet(path: Path, table: pa.Table, row_group_size: int = 4096) -> None:
    """Write a zstd Parquet file with checksums of its pages, whole or not at all."""
    how = {"compression": "zstd", "row_group_size": row_group_size, "write_page_checksum": True}
    write_whole(path, lambda p: pq.write_table(table, p, **how))


def write_npy(path: Path, array: npt.NDArray[Any]) -> None:
    """Write one array of a plain dtype, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as f:  # to a path numpy would add the suffix .npy
            np.save(f, array, allow_pickle=False)

    write_whole(path, write)


def write_npz(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write arrays of plain dtypes, whole or not at all; read with `allow_pickle=False`."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as f:  # to a path numpy would add the suffix .npz
            np.savez(f, **arrays)  # type: ignore[arg-type]

    write_whole(path, write)
