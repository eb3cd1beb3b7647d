"""Finished core sets are kept: only the same settings, or the user's word, may replace them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from mads_ray.config import RunConfig
from mads_ray.errors import MismatchError
from mads_ray.ledger import RunFolder
from mads_ray.storage import read_json

_GROUPS = ("clustering", "selection")  # with the seed and the format, what a core set depends on


def keep_other(config: RunConfig, source: RunFolder, target: RunFolder) -> None:
    """Raise MismatchError where the target holds a finished core set of other settings."""
    summary = read_json(target.run_json)
    found = [] if summary is None else differences(config, source, summary)
    if found:
        raise MismatchError(
            f"{target.root} holds a finished core set of other settings:\n  "
            + "\n  ".join(found)
            + "\nUse another --output, or --overwrite to replace it."
        )


def differences(config: RunConfig, source: RunFolder, summary: dict[str, Any]) -> list[str]:
    """One line for every setting that a finished run (its run.json) has otherwise."""
    wanted = _settings(config) | {"states": str(source.root)}
    try:
        stored = RunConfig.model_validate(summary["config"])
    except ValidationError:
        return ["config: stored by another version of mads_ray"]
    theirs = _settings(stored) | {"states": summary["states_from"]}
    return [
        f"{name}: stored {theirs[name]!r}, wanted {value!r}"
        for name, value in wanted.items()
        if theirs[name] != value
    ]


def _settings(config: RunConfig) -> dict[str, Any]:
    whole = config.model_dump(mode="json")
    settings = {"seed": whole["seed"], "output_format": whole["output_format"]}
    for group in _GROUPS:
        settings |= {f"{group}.{name}": value for name, value in whole[group].items()}
    # Where scratch files were has no part in the result, and a fraction may be the default.
    del settings["selection.scratch"]
    settings["selection.fraction"] = config.selection.effective_fraction
    return settings
