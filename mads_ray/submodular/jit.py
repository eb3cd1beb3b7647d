"""numba with a disk cache that notices when any of the compiled loops change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba


def jit(function: Callable[..., Any]) -> Any:
    """`numba.njit`, cached until a file of this folder changes.

    numba looks only at the file of the function itself, and not at those of the functions it calls
    and inlines: after an upgrade it would go on with their old machine code.
    """
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = os.path.join(before or _folder(), _digest())
    try:
        return numba.njit(cache=True, nogil=True)(function)
    finally:
        settings.CACHE_DIR = before


@cache
def _folder() -> str:
    here = Path(__file__).parent / "__pycache__"
    if os.access(here if here.exists() else here.parent, os.W_OK):
        return str(here)
    from mads_ray.storage import cache_folder

    return str(cache_folder())


@cache
def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return f"numba-{digest.hexdigest()[:16]}"
