"""What the settings are, as their models tell it: the one source of flags, pages and schemas."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

from mads_ray.config.run import RunConfig

_KINDS: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the configuration.

    `name` is dotted (selection.fraction). `kind` is the type of one value; `shape` tells whether
    the setting holds one, a list of them, or a map from names to them. `values` are those that are
    allowed (the names, of a map); () where any is. `limits` names the bounds of a number.
    """

    name: str
    kind: type
    shape: Literal["one", "list", "map"]
    values: tuple[str, ...]
    limits: str
    default: Any
    description: str

    @property
    def group(self) -> str:
        """The group that the setting is in; "" for those of the run itself."""
        return self.name.rpartition(".")[0]


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file. It requires nothing: flags may give what is missing."""
    schema = RunConfig.model_json_schema()
    groups = schema.pop("$defs")
    for name, field in schema["properties"].items():
        if "$ref" in field:
            schema["properties"][name] = groups[field["$ref"].rpartition("/")[2]]
    del schema["required"]
    schema["title"] = "Configuration of mads_ray"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


@functools.cache
def settings() -> dict[str, Setting]:
    """Every setting by its name, in the order of the models."""
    found = []
    for name, field in json_schema()["properties"].items():
        inner = field.get("properties")
        of_group = {f"{name}.{n}": f for n, f in inner.items()} if inner else {name: field}
        found += [_setting(n, f) for n, f in of_group.items()]
    return {s.name: s for s in found}


def _setting(name: str, field: dict[str, Any]) -> Setting:
    # Of several forms (one text or a list of them, a value or null) the last holds the others.
    whole = [f for f in field.get("anyOf", [field]) if f.get("type") != "null"][-1]
    shape: Literal["one", "list", "map"] = "one"
    one, allowed = whole, whole
    if whole["type"] == "array":
        shape, one = "list", whole["items"]
        allowed = one
    elif whole["type"] == "object":
        shape, one, allowed = "map", whole["additionalProperties"], whole["propertyNames"]
    return Setting(
        name=name,
        kind=_KINDS[one["type"]],
        shape=shape,
        values=tuple(allowed.get("enum", ())),
        limits=_limits(one),
        default=field.get("default"),
        description=field.get("description", ""),
    )


def _limits(one: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    return ", ".join(f"{word} {one[key]:,}" for key, word in words.items() if key in one)
