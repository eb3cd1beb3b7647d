"""Settings of clustering and selection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mads_ray.baselines import BASELINES
from mads_ray.config.credentials import refuse_credentials
from mads_ray.config.frozen import Frozen


class ClusteringConfig(Frozen):
    """The cluster tree of the sketches."""

    levels: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="clusters a level, coarse to fine; default 8, 16, 32, ... by size"
    )
    iterations: int = Field(20, ge=1, description="k-means iterations")
    fan_in: int = Field(16, ge=2, description="summaries that are merged in one task")
    exact_rows: int = Field(
        200_000, ge=0, description="up to this many sketches k-means sees them all, not summaries"
    )


METHODS = ("mads", *BASELINES, "raw-topk-union")
if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[METHODS]
_BASELINE_TEXTS = "; ".join(f"{name}, {b.text}" for name, b in BASELINES.items())


class SelectionConfig(Frozen):
    """Budget and objective of the core set."""

    method: Method = Field(
        "mads",
        description=f"mads, or a baseline to select by instead: {_BASELINE_TEXTS}; "
        "raw-topk-union, the plain coverage of raw neurons",
    )
    compare: tuple[Method, ...] = Field(
        (), description="further methods, for the report's comparison only"
    )
    fraction: float | None = Field(None, gt=0, le=1, description="budget as a share of examples")
    size: int | None = Field(None, ge=1, description="budget in examples")
    tokens: int | None = Field(None, ge=1, description="budget in tokens")
    objective: str = Field("sqrt", pattern=r"^(sqrt|log1p|union|cap:[1-9][0-9]{0,8})$")
    tree_share: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="weight of the cluster tree relative to the neurons of an example",
    )
    weights: Literal["pool", "uniform"] = Field(
        "pool",
        description="of neurons. pool: by the square root of how many examples show one, which "
        "gives the core set the proportions of the pool; uniform: all alike, which favours rare "
        "neurons and long examples. A target has weights of its own",
    )
    base_core_set: str | None = Field(
        None, description="run folder whose core set to extend; capture with calibration_from"
    )
    target: tuple[str, ...] = Field(
        (), description="files of target examples, whose neurons weigh as often as they show them"
    )
    quality_column: str | None = Field(
        None, description="field with a number, higher is better (dotted names reach into objects)"
    )
    quality_weight: float = Field(
        0.1,
        ge=0,
        le=1000,
        description="the best quality counts this share of a random example's coverage",
    )
    floor_per_cluster: int | None = Field(None, ge=1, description="at least so many of a cluster")
    cap_per_cluster: int | None = Field(None, ge=1, description="at most so many of a cluster")
    floor_per_source: int | None = Field(None, ge=1, description="at least so many of a file")
    cap_per_source: int | None = Field(None, ge=1, description="at most so many of a file")
    near_duplicates: float | None = Field(
        None,
        gt=0.5,
        le=1,
        description="collapse examples of a cluster that share this much of "
        "their neurons; default: off",
    )
    exact_rows: int = Field(
        100_000, ge=0, description="up to this many examples one task runs exact lazy greedy"
    )
    pool_rows: int = Field(32_768, ge=2, description="most rows that compete in one place")
    rounds: int = Field(40, ge=1, description="most rounds of exchange")
    stall: float = Field(
        0.0003, ge=0, description="stop when a round adds less than this share of what was won"
    )
    random_draws: int = Field(20, ge=2, le=10_000, description="random core sets to compare with")
    scratch: str | None = Field(
        None, description="folder for memory-mapped states, 2 bytes a neuron; default: TMPDIR"
    )

    @field_validator("base_core_set")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # run.json must name the same folder wherever it is repeated.
        return None if value is None else str(Path(value).expanduser().absolute())

    @field_validator("target")
    @classmethod
    def _absolute_files(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            refuse_credentials(path)
        return tuple(v if "://" in v else str(Path(v).expanduser().absolute()) for v in value)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [n for n in ("fraction", "size", "tokens") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {' and '.join(given)}")
        if self.tokens is not None and (self.floor_per_cluster or self.floor_per_source):
            raise ValueError("floors need a budget in examples (fraction or size), not in tokens")
        return self

    @property
    def effective_fraction(self) -> float | None:
        """The budget as a fraction; 0.15 when no budget was given, None for the other kinds."""
        if self.size is not None or self.tokens is not None:
            return None
        return 0.15 if self.fraction is None else self.fraction
