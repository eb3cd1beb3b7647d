"""What a selection starts from: its examples, and the settings that it needs of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mads_ray.arrays import I32, U64
from mads_ray.clustering.density import Density
from mads_ray.clustering.tree import ClusterTree
from mads_ray.config import RunConfig, SelectionConfig
from mads_ray.states import CapturedStates


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a selection. `workers`: at most so many processes; None: one for each CPU."""

    options: SelectionConfig
    seed: int
    workers: int | None = None

    @classmethod
    def of(cls, config: RunConfig) -> Settings:
        """Those of a run."""
        return cls(config.selection, config.seed, config.ray.selection_workers)


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A core set to extend.

    `counts_D`: how many of its rows have each feature. `uids_N2`: halves of its uids, which may not
    be selected again; the driver holds them, as many as that core set has rows.
    """

    counts_D: I32
    uids_N2: U64
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class GroundSet:
    """The examples to select from, by their states and clusters.

    `density`: what the examples weigh where the pool's proportions count; None: all alike.
    `target_counts_D`: how many target examples have each feature. `base`: a core set to extend.
    `rounds`: the folder of checkpoints; None to keep none.
    """

    states: CapturedStates
    tree: ClusterTree
    density: Density | None = None
    target_counts_D: I32 | None = None
    base: Base | None = None
    rounds: Path | None = None
