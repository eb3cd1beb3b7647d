"""What `mads-ray config` prints: a configuration, its JSON Schema, the page of all settings."""

from __future__ import annotations

import json
from typing import Any

import yaml

from mads_ray.cli.flags import FLAGS, Given
from mads_ray.config import former_names
from mads_ray.config.settings import Setting, json_schema, settings

_TOP = """# Settings

*`mads-ray config --reference` makes this page from the fields of [config/](../mads_ray/config).*

A YAML file, which `--config` names, holds any of these settings:

```yaml
output: runs/mine
selection: {fraction: 0.05}
```

Flags say the same (`--output runs/mine --fraction 0.05`), and `--set selection.tree_share=1`
reaches the settings that have no flag. Flags win over the file. `run.json` of a run is such a file,
too. In Python, `RunConfig` has these fields.

`mads-ray config` takes the flags of a run and prints its whole configuration.
`mads-ray config --schema > mads_ray.schema.json` writes the JSON Schema. With it an editor
completes and checks YAML files, for example by this first line:
`# yaml-language-server: $schema=mads_ray.schema.json`.
"""
_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def effective(given: Given) -> str:
    """The whole configuration as YAML; without an output where none was given."""
    unnamed = given.file is None and "output" not in given.overrides
    config = given.load(**({"output": "."} if unnamed else {}))
    whole = config.model_dump(mode="json", exclude={"output"} if unnamed else None)
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)


def schema() -> str:
    """JSON Schema of a configuration file, with descriptions and defaults."""
    return json.dumps(json_schema(), indent=1) + "\n"


def reference() -> str:
    """Every setting by group, in Markdown."""
    fields = json_schema()["properties"]
    groups = ["", *(name for name, field in fields.items() if "properties" in field)]
    parts = [_TOP]
    for group in groups:
        title = f"## `{group}`\n\n{fields[group]['description']}" if group else "## The run"
        rows = [_row(s) for s in settings().values() if s.group == group]
        head = "| setting | type | default | flag | what it is |\n|---|---|---|---|---|"
        parts.append("\n".join([title, "", head, *rows, ""]))
    parts.append(
        "## Former names\n\nThey still load, with a warning.\n\n| formerly | now |\n|---|---|"
    )
    parts[-1] += "".join(f"\n| `{old}` | `{new}` |" for old, new in former_names().items())
    return "\n".join(parts) + "\n"


def _row(setting: Setting) -> str:
    flag = next((flags for flags, name in FLAGS.items() if name == setting.name), "")
    cells = [
        f"`{setting.name}`",
        _type(setting),
        _default(setting.default),
        ", ".join(f"`{f}`" for f in flag.split()),
        setting.description.replace("|", "\\|"),
    ]
    return f"| {' | '.join(cells)} |"


def _type(setting: Setting) -> str:
    values = ", ".join(f"`{v}`" for v in setting.values)
    if setting.shape == "map":
        return f"map to {_KINDS[setting.kind]}, from {values}"
    one = values or _KINDS[setting.kind]
    one = f"{one}, {setting.limits}" if setting.limits else one
    return f"list: {one}" if setting.shape == "list" else one


def _default(value: Any) -> str:
    return "" if value in (None, []) else f"`{json.dumps(value).strip(chr(34))}`"
