"""The one configuration of a run, and how it is read from a file and from flags."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mads_ray.config.capture import CaptureConfig
from mads_ray.config.cluster import RayConfig
from mads_ray.config.corpus import CorpusConfig
from mads_ray.config.frozen import Frozen
from mads_ray.config.selection import ClusteringConfig, SelectionConfig
from mads_ray.errors import ConfigError
from mads_ray.paths import refuse_credentials
from mads_ray.printable import shortened

log = logging.getLogger(__name__)

_BUDGETS = {"fraction", "size", "token_budget"}


class RunConfig(Frozen):
    """Everything that determines a run. Equal configs on equal input give the same core set."""

    input: tuple[str, ...] = Field(
        (), description="File, folder or glob with the rows: local, s3://, gs:// or hf://."
    )
    output: str = Field(
        description="Folder of the run. Every node must see it: a local or a shared file system."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of k-means, ties and random core sets.")
    output_format: Literal["jsonl", "parquet"] = Field(
        "jsonl", description="Format of the core set."
    )
    corpus: CorpusConfig = CorpusConfig()
    capture: CaptureConfig = CaptureConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    selection: SelectionConfig = SelectionConfig()
    ray: RayConfig = RayConfig()

    @field_validator("input", mode="before", json_schema_input_type=str | tuple[str, ...])
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


def former_names() -> dict[str, str]:
    """Dotted names that settings had once, with those that they have now."""
    return {
        f"{group}.{old}": f"{group}.{new}"
        for group, field in RunConfig.model_fields.items()
        for old, new in getattr(field.annotation, "former_names", {}).items()
    }


def of_stored_run(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run.json, with what older versions did without saying it."""
    selection = {"balance": 0.0} | config.get("selection", {})
    return config | {"selection": selection}


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

    Former names of settings load too, with one warning. Raises ConfigError that names the file and
    the offending field.
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
            data = of_stored_run(data["config"])
    overrides = _by_new_names(data, overrides, where)
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
        if parents == ["selection"] and leaf in _BUDGETS:
            # A budget on the command line replaces the file's, whatever its kind.
            for other in _BUDGETS - {leaf}:
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


def _by_new_names(data: dict[str, Any], overrides: dict[str, Any], where: str) -> dict[str, Any]:
    """Rename settings in a file's `data`, in place, and in overrides, which are returned.

    One warning names all that was said by a former name. A group that says both names of a setting
    stays as it is: its validation refuses it.
    """
    told, names = [], former_names()
    for former, name in names.items():
        group, _, old = former.partition(".")
        new = name.rpartition(".")[2]
        node = data.get(group)
        found = former in overrides
        if found and name in overrides:
            raise ConfigError(f"{former} is the former name of {name}: give one of them")
        if isinstance(node, dict) and old in node and new not in node:
            node[new] = node.pop(old)
            found = found or node[new] is not None
        if found:
            told.append(f"{former} is now called {name}")
    if told:
        log.warning("%s: %s", where, ", ".join(told))
    return {names.get(name, name): value for name, value in overrides.items()}
