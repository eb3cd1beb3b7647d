"""The stored digests: those of any machine, and those of machines of one kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("digests.json")


def load() -> dict[str, Any]:
    """`anywhere` and, by kind, `machines`: each by corpus, scenario and part."""
    if not FILE.exists():
        return {"anywhere": {}, "machines": {}}
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def save(stored: dict[str, Any]) -> None:
    """A line a scenario, so that a change shows where it is."""
    text = json.dumps(stored, indent=1, sort_keys=True)
    FILE.write_text(text + "\n", encoding="utf-8")


def differences(stored: Any, found: Any, name: str = "") -> list[str]:
    """A line for whatever differs or is not stored; what was not looked at has none."""
    if stored is None:
        return [f"not stored: {name}"]
    if not isinstance(found, dict):
        return [] if stored == found else [f"differs: {name}"]
    return [
        line
        for key, value in found.items()
        for line in differences(stored.get(key), value, f"{name} / {key}" if name else key)
    ]


def laid_over(stored: Any, found: Any) -> Any:
    """What is stored, with what was found in its place."""
    if not isinstance(found, dict) or not isinstance(stored, dict):
        return found
    return stored | {k: laid_over(stored.get(k), v) for k, v in found.items()}
