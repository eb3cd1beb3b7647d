"""What is said of a stored file that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from mads_ray.errors import DamagedFileError, reason_of

_SHOWN = 200


def damaged(path: Path, wrong: str, remedy: str) -> DamagedFileError:
    """The error that names a file, what is wrong with it, and what to do.

    `wrong` goes on after the path ("breaks off"); `remedy` is a sentence without its full stop.
    """
    return DamagedFileError(f"{path} {wrong}. {remedy[:1].upper()}{remedy[1:]}.")


@contextmanager
def naming(path: Path, remedy: str) -> Iterator[None]:
    """In this block a library reads the file: what it raises over the content names the file.

    A file that is not there is named, too. Other OSErrors of the system (no access, a disk that
    fails) tell of no damage and stay as they are.
    """
    try:
        yield
    except DamagedFileError:
        raise
    except (MemoryError, pa.ArrowMemoryError):
        raise  # the machine's fault, not the file's
    except FileNotFoundError as e:
        raise damaged(path, "is not there", remedy) from e
    except OSError as e:
        if e.errno is not None:
            raise
        raise damaged(path, f"cannot be read: {_reason(e, path)}", remedy) from e
    except Exception as e:  # zipfile, zlib, numpy and Arrow have many names for a torn file
        wrong = f"is torn or no such file as it should be: {_reason(e, path)}"
        raise damaged(path, wrong, remedy) from e


def _reason(e: Exception, path: Path) -> str:
    """What a library says, without the path, which is said already."""
    return reason_of(e, 2 * _SHOWN, named=True).replace(f" '{path}'", "")[:_SHOWN]
