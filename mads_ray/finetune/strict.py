"""Frozen dataclasses from YAML, refusing what they do not know.

The rest of the package has pydantic for this; a bare GPU machine has not.
"""

from __future__ import annotations

import dataclasses
import math
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mads_ray.errors import ConfigError

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
    """A dataclass from a mapping of its fields, which may hold others."""
    assert dataclasses.is_dataclass(kind)
    if not isinstance(data, dict):
        raise ConfigError(f"{where or 'a configuration'} must be a mapping")
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
