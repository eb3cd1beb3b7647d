"""The one configuration of a run. Every command line flag is a field here, and `run.json` holds it.

All models are frozen and refuse unknown fields, so a typing error in a YAML file is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mads_ray.errors import ConfigError

FieldName = Literal["messages", "system", "prompt", "input", "response"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusConfig(_Frozen):
    """How rows become examples, and examples canonical shards."""

    fields: dict[FieldName, str] | None = Field(
        None,
        description="explicit field map, e.g. {prompt: question, response: answer.text}; "
        "overrides the recognised schemas",
    )
    label_field: str | None = Field(
        None, description="field that names a row's task; default: task, category or dataset"
    )
    shard_rows: int = Field(4096, ge=16, description="most examples in one canonical shard")


class CaptureConfig(_Frozen):
    """Which model reacts, and what of its reaction is kept."""

    model: str = Field("smollm2-135m", description="hub name, local folder, or smollm2-135m")
    revision: str | None = Field(None, description="hub revision of the model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the device has instructions for it, else float32"
    )
    neurons_per_layer: int = Field(64, ge=1, description="k: active neurons kept in every layer")
    max_tokens: int = Field(2048, ge=16, description="longer examples lose the prompt's middle")
    token_budget: int | None = Field(
        None, ge=16, description="padded tokens in a micro-batch; default 2048 on CPU, 16384 on GPU"
    )
    calibration_rows: int = Field(
        2048, ge=2, le=16_384, description="examples that fit mean, std and sketch"
    )
    sketch_dim: int = Field(128, ge=2, le=1024, description="length of a sketch")
    store_hidden: bool = Field(
        False, description="also store the mean last hidden state (for baselines)"
    )


class ClusteringConfig(_Frozen):
    """The cluster tree of the sketches."""

    levels: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="clusters a level, coarse to fine; default 16, 64, 256, ... by size"
    )
    iterations: int = Field(20, ge=1, description="k-means iterations")


class SelectionConfig(_Frozen):
    """Budget and objective of the core set."""

    fraction: float | None = Field(None, gt=0, le=1, description="budget as a share of examples")
    size: int | None = Field(None, ge=1, description="budget in examples")
    tokens: int | None = Field(None, ge=1, description="budget in tokens")
    objective: str = Field("sqrt", pattern=r"^(sqrt|log1p|union|cap:[1-9][0-9]*)$")
    tree_share: float = Field(
        0.3, ge=0, description="weight of the cluster tree relative to the neurons of an example"
    )
    exact_rows: int = Field(
        200_000, ge=1, description="up to this many examples one task runs exact lazy greedy"
    )
    fan_in: int = Field(16, ge=2, description="children of a node of the merge tree")
    oversample: float = Field(
        2.0, ge=1, description="size of a coverage set below the root, relative to its fair share"
    )
    random_draws: int = Field(20, ge=2, description="random core sets to compare with")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [n for n in ("fraction", "size", "tokens") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one budget, not {' and '.join(given)}")
        return self

    @property
    def effective_fraction(self) -> float | None:
        """The budget as a fraction; 0.15 when no budget was given, None for the other kinds."""
        if self.size is not None or self.tokens is not None:
            return None
        return 0.15 if self.fraction is None else self.fraction


class RayConfig(_Frozen):
    """Where the work runs."""

    address: str | None = Field(None, description="Ray cluster; default: RAY_ADDRESS, else local")
    workers: int | None = Field(
        None, ge=1, description="capture workers; default: one a GPU, or one a CPU without GPUs"
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPUs, and torch threads, of a worker")
    gpus_per_worker: float | None = Field(
        None, ge=0, description="default 1 where the cluster has GPUs, else 0"
    )


class RunConfig(_Frozen):
    """Everything that determines a run. Equal configs on equal input give the same core set."""

    input: tuple[str, ...] = Field((), description="files, folders, globs, s3://, gs://, hf://")
    output: str = Field(description="folder of the run")
    seed: int = Field(0, ge=0, lt=2**31)
    output_format: Literal["jsonl", "parquet"] = "jsonl"
    corpus: CorpusConfig = CorpusConfig()
    capture: CaptureConfig = CaptureConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    selection: SelectionConfig = SelectionConfig()
    ray: RayConfig = RayConfig()

    @field_validator("input", mode="before")
    @classmethod
    def _one_pattern(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("output")
    @classmethod
    def _local_output(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(
                f"output {value!r}: the output must be a folder that every node sees "
                "(a local or a shared file system), not a URI"
            )
        return value


def load_config(path: str | None, overrides: dict[str, Any]) -> RunConfig:
    """Read a YAML (or `run.json`) file and lay `overrides` (dotted names) over it.

    Raises ConfigError that names the file and the offending field.
    """
    data: Any = {}
    where = "command line"
    if path is not None:
        where = path
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            raise ConfigError(f"cannot read the configuration {path}: {e}") from e
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: a configuration is a mapping, not a {type(data).__name__}")
        if "config" in data and "counts" in data:  # a run.json: repeat that run
            data = data["config"]
    for dotted, value in overrides.items():
        node: Any = data
        *parents, leaf = dotted.split(".")
        for name in parents:
            if node.get(name) is None:  # absent, or a YAML section with nothing under it
                node[name] = {}
            node = node[name]
            if not isinstance(node, dict):
                raise ConfigError(f"{dotted}: {name} is not a group of settings")
        node[leaf] = value
        if parents == ["selection"] and leaf in ("fraction", "size", "tokens"):
            # A budget on the command line replaces the file's, whatever its kind.
            for other in {"fraction", "size", "tokens"} - {leaf}:
                if f"selection.{other}" not in overrides:
                    node.pop(other, None)
    data = {k: v for k, v in data.items() if v is not None}
    try:
        return RunConfig.model_validate(data)
    except ValidationError as e:
        lines = [
            f"  {'.'.join(str(p) for p in err['loc']) or '(whole)'}: "
            + ("there is no such setting" if err["type"] == "extra_forbidden" else err["msg"])
            for err in e.errors(include_url=False, include_input=False)
        ]
        raise ConfigError(f"bad configuration ({where}):\n" + "\n".join(lines)) from e
