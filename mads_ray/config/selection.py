"""Settings of clustering and selection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from mads_ray.baselines import BASELINES
from mads_ray.config.frozen import Frozen
from mads_ray.paths import absolute, refuse_credentials


class ClusteringConfig(Frozen):
    """The cluster tree of the sketches."""

    levels: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        description="Clusters of each level, coarse to fine; by default 8, 16, 32, ... by size.",
    )
    iterations: int = Field(20, ge=1, description="Iterations of k-means.")
    fan_in: int = Field(16, ge=2, description="Summaries that one task merges.")
    exact_rows: int = Field(
        200_000,
        ge=0,
        description="Up to this many sketches, k-means sees them all; above, it sees summaries "
        "of shards.",
    )


METHODS = ("mads", *BASELINES, "raw-topk-union")
if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[METHODS]
_TEXTS = [f"{name} ({baseline.text})" for name, baseline in BASELINES.items()]


class SelectionConfig(Frozen):
    """Budget and objective of the core set."""

    former_names: ClassVar[dict[str, str]] = {
        "tokens": "token_budget",
        "pool_rows": "buffer_rows",
        "rounds": "max_rounds",
        "stall": "tolerance",
    }

    method: Method = Field(
        "mads",
        description=f"Method to select by. All but mads are baselines: {', '.join(_TEXTS)}, "
        "raw-topk-union (plain coverage of the raw neurons).",
    )
    compare: tuple[Method, ...] = Field(
        (), description="Another method to show beside it in the report."
    )
    fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Budget: share of the examples; 0.15 where no budget is given.",
    )
    size: int | None = Field(None, ge=1, description="Budget: number of examples.")
    token_budget: int | None = Field(None, ge=1, description="Budget: number of tokens.")
    objective: str = Field(
        "sqrt",
        pattern=r"^(sqrt|log1p|union|cap:[1-9][0-9]{0,8})$",
        description="Worth of a feature by how many selected examples have it: sqrt, log1p, "
        "union or cap:T.",
    )
    tree_share: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="Weight of the cluster tree, relative to the neurons of an example.",
    )
    weights: Literal["pool", "uniform"] = Field(
        "pool",
        description="Weights of neurons. With pool, a neuron weighs by the square root of how "
        "many examples show it, each by its weight (see balance): the core set gets their "
        "proportions. With uniform, all weigh alike, which favours rare neurons and long "
        "examples. A target has weights of its own.",
    )
    balance: float = Field(
        1.0,
        ge=0,
        le=1,
        description="How far rows that are like many others count less: 0 keeps the pool's "
        "proportions, so that a template of half the pool fills half the core set; 1 gives every "
        "kind of rows its place.",
    )
    base_core_set: str | None = Field(
        None,
        description="Run folder whose core set is to be extended. Capture with its calibration "
        "(calibration_from).",
    )
    target: tuple[str, ...] = Field(
        (),
        description="File of target examples, to select for their neurons. A neuron weighs as "
        "often as they show it.",
    )
    quality_column: str | None = Field(
        None, description="Field with a number: higher is better. Dotted names reach into objects."
    )
    quality_weight: float = Field(
        0.1,
        ge=0,
        le=1000,
        description="Worth of the best quality, as a share of what a random example adds in "
        "coverage.",
    )
    floor_per_cluster: int | None = Field(
        None, ge=1, description="At least so many examples of each cluster."
    )
    cap_per_cluster: int | None = Field(
        None, ge=1, description="At most so many examples of each cluster."
    )
    floor_per_source: int | None = Field(
        None, ge=1, description="At least so many examples of each input file."
    )
    cap_per_source: int | None = Field(
        None, ge=1, description="At most so many examples of each input file."
    )
    near_duplicates: float | None = Field(
        None,
        gt=0.5,
        le=1,
        description="Leave out an example that shares this much of its neurons with one of its "
        "cluster that stays, e.g. 0.95; by default off.",
    )
    exact_rows: int = Field(
        100_000,
        ge=0,
        description="Up to this many examples, one task runs exact lazy greedy; above, shards "
        "exchange.",
    )
    buffer_rows: int = Field(
        32_768,
        ge=2,
        description="Most rows in the buffer of the exchange, where rows of all shards compete.",
    )
    max_rounds: int = Field(40, ge=1, description="Most rounds of the exchange.")
    tolerance: float = Field(
        0.0003,
        ge=0,
        description="The exchange stops when a round adds less than this share of what was won.",
    )
    # Each draw has a stream of random numbers of its own: more would meet streams of other uses.
    random_draws: int = Field(20, ge=2, le=64, description="Random core sets to compare with.")
    scratch: str | None = Field(
        None, description="Folder for memory-mapped states, 2 bytes a neuron; by default TMPDIR."
    )

    @field_validator("base_core_set")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is None:
            return None
        refuse_credentials(value)  # log.jsonl and run.json hold all settings
        # run.json must name the same folder wherever it is repeated.
        return absolute(value)

    @field_validator("target")
    @classmethod
    def _absolute_files(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            refuse_credentials(path)
        return tuple(absolute(path) for path in value)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [n for n in ("fraction", "size", "token_budget") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {' and '.join(given)}")
        if self.token_budget is not None and (self.floor_per_cluster or self.floor_per_source):
            raise ValueError("floors need a budget in examples (fraction or size), not in tokens")
        return self

    @property
    def effective_fraction(self) -> float | None:
        """The budget as a fraction; 0.15 when no budget was given, None for the other kinds."""
        if self.size is not None or self.token_budget is not None:
            return None
        return 0.15 if self.fraction is None else self.fraction
