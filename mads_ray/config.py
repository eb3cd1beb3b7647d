"""The one configuration of a run. Every command line flag is a field here, and `run.json` holds it.

All models are frozen and refuse unknown fields, so a typing error in a YAML file is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mads_ray.corpus.credentials import refuse_credentials
from mads_ray.errors import ConfigError
from mads_ray.printable import is_utf8, shortened

_TOO_MANY = 2**53  # of anything: also floats count up to here
FieldName = Literal["messages", "system", "prompt", "input", "response", "history", "tools"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _sane(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what has the right type and no meaning."""
        assert info.field_name is not None
        switch = cls.model_fields[info.field_name].annotation is bool
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, bool) and not switch:
                raise ValueError("must not be true or false")
            if isinstance(one, int) and abs(one) >= _TOO_MANY:
                raise ValueError("is too large a number")
            if isinstance(one, str) and ("\0" in one or not is_utf8(one)):
                raise ValueError("holds a NUL character, or bytes that are no UTF-8")
        return value


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
    split: tuple[str, ...] = Field(
        (),
        description="which splits to read of folders, globs and saved DatasetDicts: train, "
        "validation (also valid, val, dev), test (also testing, eval, evaluation), a split's own "
        "name (test_sft), or all; a file whose name says none counts as train. Default: all but "
        "validation and test. A file that is named itself is always read",
    )
    skip_broken_files: bool = Field(
        False,
        description="leave out files in folders that cannot be read to their end (run.json counts "
        "them), instead of stopping; a broken file that is named itself stops the run",
    )
    text_only: bool = Field(
        False,
        description="read rows with images, audio or video without these; default: quarantine",
    )
    shard_rows: int = Field(
        4096, ge=16, lt=2**31, description="most examples in one canonical shard"
    )

    @field_validator("fields")
    @classmethod
    def _all_of_it_is_read(cls, value: dict[FieldName, str] | None) -> dict[FieldName, str] | None:
        """A map must not name a field that would then be passed over."""
        if value is not None:
            pair = value.keys() & {"prompt", "response", "input"}
            if "messages" in value and pair:
                named = " and ".join(sorted(pair))
                raise ValueError(
                    f"a field map with messages reads no {named}; give messages (and system, "
                    "history, tools), or prompt and response (and those and input)"
                )
            if "messages" not in value and not {"prompt", "response"} <= value.keys():
                raise ValueError("a field map names messages, or prompt and response")
        return value

    @field_validator("split", mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
            return value
        return tuple(s.strip().lower() for t in texts for s in t.split(",") if s.strip())


class CaptureConfig(_Frozen):
    """Which model reacts, and what of its reaction is kept."""

    model: str = Field("smollm2-135m", description="hub name, local folder, or smollm2-135m")
    revision: str | None = Field(None, description="hub revision of the model")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="vllm: an extra of its own, for GPUs and large models"
    )
    tensor_parallel: int = Field(
        1, ge=1, description="GPUs that hold one model together (engine vllm)"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the device has instructions for it, else float32"
    )
    neurons_per_layer: int = Field(64, ge=1, description="k: active neurons kept in every layer")
    tokens: Literal["all", "prompt", "response", "last"] = Field(
        "all",
        description="whose activations count: all own tokens, those of the user, those of "
        "the assistant, or the last one",
    )
    pooling: Literal["max", "mean"] = Field(
        "max", description="how a neuron's |activations| over these tokens become one number"
    )
    hook_module: str | None = Field(
        None,
        pattern=r"^[^*]+\.\*\.[^*]+$",
        description="for unknown architectures: the layers' last feed-forward modules, with * for "
        "the layer's number, e.g. model.layers.*.mlp.down_proj",
    )
    compile: bool = Field(
        False,
        description="let torch.compile have the layers: faster, but half a minute slower to start "
        "(see docs/capture.md)",
    )
    max_tokens: int = Field(2048, ge=16, description="longer examples lose the prompt's middle")
    token_budget: int | None = Field(
        None,
        ge=16,
        description="padded tokens in a micro-batch to begin with; default 2048 on a CPU, by free "
        "memory on a GPU",
    )
    calibration_rows: int = Field(
        2048, ge=2, le=16_384, description="examples that fit mean, std and sketch"
    )
    sketch_dim: int = Field(256, ge=2, le=1024, description="length of a sketch")
    store_hidden: bool = Field(
        False, description="also store the mean last hidden state (for baselines)"
    )
    store_raw: bool = Field(
        False,
        description="also store raw top-k neurons, not standardised (for the raw-topk-union "
        "baseline)",
    )
    calibration_from: str | None = Field(
        None,
        description="run folder whose calibration to use instead of fitting one, so that states "
        "of two corpora compare; its model and settings replace the defaults here",
    )

    @field_validator("calibration_from")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # run.json must name the same folder wherever it is repeated.
        return None if value is None else str(Path(value).expanduser().absolute())

    @model_validator(mode="after")
    def _fits_the_engine(self) -> Self:
        if self.engine == "transformers" and self.tensor_parallel > 1:
            raise ValueError("tensor_parallel needs the engine vllm (--engine vllm)")
        if self.engine == "vllm" and self.compile:
            raise ValueError("compile is for the engine transformers; vLLM must not skip hooks")
        return self


class ClusteringConfig(_Frozen):
    """The cluster tree of the sketches."""

    levels: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="clusters a level, coarse to fine; default 8, 16, 32, ... by size"
    )
    iterations: int = Field(20, ge=1, description="k-means iterations")
    fan_in: int = Field(16, ge=2, description="summaries that are merged in one task")
    exact_rows: int = Field(
        200_000, ge=0, description="up to this many sketches k-means sees them all, not summaries"
    )


Method = Literal["mads", "random", "length-matched-random", "kmeans", "k-center", "raw-topk-union"]


class SelectionConfig(_Frozen):
    """Budget and objective of the core set."""

    method: Method = Field("mads", description="mads, or a baseline to select by instead")
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


class RayConfig(_Frozen):
    """Where the work runs, and how long to wait for it."""

    address: str | None = Field(None, description="Ray cluster; default: RAY_ADDRESS, else local")
    workers: int | None = Field(
        None, ge=1, description="capture workers; default: one a GPU, or one a CPU without GPUs"
    )
    selection_workers: int | None = Field(
        None, ge=1, description="processes that hold states in the selection; default: one a CPU"
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPUs, and torch threads, of a worker")
    gpus_per_worker: float | None = Field(
        None,
        ge=0,
        description="default 1 (or capture.tensor_parallel) where the cluster has GPUs, else 0; "
        "0.5 puts two workers on each",
    )
    elastic: bool = Field(
        False,
        description="the cluster brings nodes as they are asked for: ask for all of ray.workers at "
        "once, and use them as they come (give gpus_per_worker too)",
    )
    hang_s: float = Field(
        900.0, gt=0, description="give a worker up that finishes no batch in so many seconds"
    )

    @model_validator(mode="after")
    def _elastic_says_what(self) -> Self:
        if self.elastic and (self.workers is None or self.gpus_per_worker is None):
            raise ValueError("elastic needs workers and gpus_per_worker: what to ask for")
        return self


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

    @field_validator("input")
    @classmethod
    def _no_credentials(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            refuse_credentials(path)
        return value

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.capture.engine == "vllm" and 0 < (self.ray.gpus_per_worker or 0) < 1:
            raise ValueError(
                "ray.gpus_per_worker below 1 needs the engine transformers: each vLLM counts the "
                "memory of a whole GPU as its own"
            )
        return self

    @field_validator("output")
    @classmethod
    def _local_output(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(
                f"output {value!r}: the output must be a folder that every node sees "
                "(a local or a shared file system), not a URI"
            )
        return value


def parse_yaml(text: str) -> Any:
    """What a YAML text holds. Raises ConfigError that says what is wrong with it."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as e:  # also dates that are none
        raise ConfigError(shortened(str(e))) from e
    except RecursionError as e:
        raise ConfigError("it is nested too deeply") from e


def load_config(path: str | None, overrides: dict[str, Any]) -> RunConfig:
    """Read a YAML (or `run.json`) file and lay `overrides` (dotted names) over it.

    Raises ConfigError that names the file and the offending field.
    """
    data: Any = {}
    where = "command line"
    if path is not None:
        where = path
        try:
            data = parse_yaml(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, ValueError) as e:
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
