"""The configured limits of a selection: its budget, and how many examples of each group."""

from __future__ import annotations

import math

import numpy as np

from mads_ray.config import SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.submodular.problem import Bounds, Budget


def resolve_budget(selection: SelectionConfig, examples: int, candidates: int) -> Budget:
    """A fraction is one of all `examples`, at most all candidates (those that may be selected).

    Raises ConfigError for a size larger than that.
    """
    if selection.token_budget is not None:
        return Budget(tokens=selection.token_budget)
    if selection.size is not None:
        if selection.size > candidates:
            raise ConfigError(f"--size {selection.size} is more than the {candidates} examples")
        return Budget(rows=selection.size)
    assert selection.effective_fraction is not None
    wanted = max(1, math.floor(selection.effective_fraction * examples + 1e-9))
    return Budget(rows=min(wanted, candidates))


def make_bounds(selection: SelectionConfig, clusters: int, files: int) -> Bounds:
    """Floors and caps of clusters (leaves of the tree) and of source files, in this order."""
    kinds = [
        (selection.floor_per_cluster, selection.cap_per_cluster, clusters),
        (selection.floor_per_source, selection.cap_per_source, files),
    ]
    used = [(low or 0, high or 2**62, n) for low, high, n in kinds if low or high]
    for low, high, _ in used:
        if low > high:
            raise ConfigError(f"a floor of {low} is above the cap of {high}")
    sizes = [n for _, _, n in used]
    return Bounds(
        np.repeat(np.array([low for low, _, _ in used], np.int64), sizes),
        np.repeat(np.array([high for _, high, _ in used], np.int64), sizes),
        np.repeat(np.arange(len(used), dtype=np.int64), sizes),
    )
