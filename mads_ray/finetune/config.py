"""The one configuration of a grid of fine-tunes; `jobs/finetune_grid.yaml` is an example."""

from __future__ import annotations

import dataclasses
import logging
import math
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mads_ray.capture import SMOLLM2
from mads_ray.errors import ConfigError
from mads_ray.finetune.tune import Plan

log = logging.getLogger(__name__)

UNTUNED = "untuned"  # the arm of a model before tuning
_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@dataclass(frozen=True, slots=True)
class Regime:
    """How long to tune: a number of `steps`, the same for every arm, or of `epochs` of its rows."""

    name: str
    steps: int | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.steps, self.epochs) if v is not None]
        if len(given) != 1 or given[0] <= 0:
            raise ConfigError(f"regime {self.name}: give either steps or epochs, above 0")


@dataclass(frozen=True, slots=True)
class Training:
    """What all fine-tunes share. Tokens are padded ones; a longer example loses its middle."""

    learning_rate: float = 5e-5
    examples_per_step: int = 16
    batch_tokens: int = 8192
    max_tokens: int = 1024
    bf16: Literal["auto", "on", "off"] = "auto"


_FORMER_NAMES: dict[type, dict[str, str]] = {Training: {"micro_batch_tokens": "batch_tokens"}}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Task files (none: held-out loss alone), most questions of each, padded tokens a batch.

    `generate`: tasks whose answers are written and scored by lm-evaluation-harness (gsm8k, ifeval),
    most prompts of each, tokens of an answer (None: the task's own limit), answers a batch. Cells
    are done anew when these change: decide before the first run.
    """

    folder: str | None = None
    tasks: tuple[str, ...] | None = None
    limit: int | None = None
    batch_tokens: int = 16_384
    max_tokens: int = 2048
    generate: tuple[str, ...] = ()
    generate_limit: int | None = 100
    max_new_tokens: int | None = None
    generate_batch: int = 32

    def __post_init__(self) -> None:
        if self.generate and not self.folder:
            raise ConfigError("evaluation.generate: name the folder of task files too")


@dataclass(frozen=True, slots=True)
class GridConfig:
    """Cells are models x arms x regimes x seeds, and every model untuned.

    An arm is null (the whole pool), a file of rows or of uids (.txt, one a line, rows from the
    pool), a name with {seed} in it, or a mapping from seed to file. Its paired differences are to
    the arm `reference-BUDGET` where its own name ends in -BUDGET, else to `reference`.
    """

    output: str
    pool: tuple[str, ...]
    held_out: tuple[str, ...]
    arms: dict[str, str | dict[int, str] | None]
    regimes: tuple[Regime, ...]
    models: tuple[str, ...] = (SMOLLM2,)
    seeds: tuple[int, ...] = (0, 1, 2)
    reference: str = "random"
    label_field: str | None = None
    fields: dict[str, str] | None = None
    text_only: bool = False
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        names = [*self.arms, *(r.name for r in self.regimes)]
        bad = [n for n in names if not n or not set(n) <= _PLAIN or n == UNTUNED]
        if bad:
            raise ConfigError(f"{bad[0]!r}: a name has letters, digits, - and _")
        for what, values in (
            ("regimes", [r.name for r in self.regimes]),
            ("models", list(self.models)),
            ("seeds", list(self.seeds)),
            ("arms", list(self.arms)),
        ):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{what}: name at least one, and each only once")
        if min(self.seeds) < 0:
            raise ConfigError("seeds are not negative")
        for arm, source in self.arms.items():
            absent = [s for s in self.seeds if isinstance(source, dict) and s not in source]
            if absent:
                raise ConfigError(f"arms.{arm}: there is no file for seed {absent[0]}")

    def file_of(self, arm: str, seed: int) -> str | None:
        """The file of an arm for this seed. None for the whole pool."""
        source = self.arms[arm]
        if isinstance(source, dict):
            return source[seed]
        return source and source.replace("{seed}", str(seed))

    def reference_of(self, arm: str) -> str | None:
        """The arm that this one is compared with. None where there is none."""
        base, dash, budget = arm.rpartition("-")
        for name in (f"{self.reference}-{budget}" if dash else "", self.reference):
            if name in self.arms and name != arm and base != self.reference:
                return name
        return None

    def plan(self, regime: Regime, bf16: bool) -> Plan:
        """How to tune the cells of this regime."""
        t = self.training
        return Plan(
            steps=regime.steps,
            epochs=regime.epochs,
            learning_rate=t.learning_rate,
            examples_per_step=t.examples_per_step,
            batch_tokens=t.batch_tokens,
            bf16=bf16,
        )


def load_grid(path: str) -> GridConfig:
    """Read a grid file. Raises ConfigError that names the file and the field."""
    return load_yaml(path, GridConfig)


T = TypeVar("T")


def load_yaml(path: str, kind: type[T]) -> T:
    """Read a YAML file as this dataclass. Raises ConfigError that names file and field."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise ConfigError(f"cannot read the configuration {path}: {e}") from e
    except RecursionError as e:
        raise ConfigError(f"cannot read the configuration {path}: nested too deeply") from e
    try:
        return build(kind, data)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e


def build(kind: type[T], data: Any, where: str = "") -> T:
    """Make a dataclass from a mapping of its fields. Fields may be dataclasses."""
    assert dataclasses.is_dataclass(kind)
    if not isinstance(data, dict):
        raise ConfigError(f"{where or 'a configuration'} must be a mapping")
    data = _by_new_names(kind, data, where)
    hints = get_type_hints(kind)
    unknown = sorted(str(k) for k in data if k not in hints)
    if unknown:
        raise ConfigError(f"{where}{unknown[0]}: unknown field (known: {', '.join(hints)})")
    values = {k: _convert(v, hints[k], f"{where}{k}") for k, v in data.items()}
    required = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{where}{missing[0]}: this field is missing")
    return kind(**values)


def _by_new_names(kind: type, data: dict[Any, Any], where: str) -> dict[Any, Any]:
    """A configuration that says a former name of a field still loads, with a warning."""
    former = _FORMER_NAMES.get(kind, {})
    for old in former.keys() & data.keys():
        new = former[old]
        if new in data:
            raise ConfigError(f"{where}{old} is the former name of {new}: give one of them")
        log.warning("%s%s is now called %s%s", where, old, where, new)
    return {former.get(name, name): value for name, value in data.items()}


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_fit(value, arguments, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, f"{where}.")  # type: ignore[arg-type]
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where}: {value!r} is none of {', '.join(map(str, arguments))}")
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list")
        return tuple(_convert(v, arguments[0], f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a mapping")
        return {
            _convert(k, arguments[0], f"{where}.{k}"): _convert(v, arguments[1], f"{where}.{k}")
            for k, v in value.items()
        }
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: {value!r} is not of type {getattr(hint, '__name__', hint)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value!r} is not a finite number")
    return value


def _first_fit(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    reasons = []
    for hint in hints:
        try:
            return _convert(value, hint, where)
        except ConfigError as e:
            reasons.append(str(e))
    raise ConfigError(reasons[0])
