"""What may be wrong with a stored file: damages of its bytes, and foreign content of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[bytes], bytes]


def _json(change: Callable[[Any], Any]) -> Damage:
    def damage(data: bytes) -> bytes:
        return json.dumps(change(json.loads(data))).encode()

    return damage


def _without_first(value: Any) -> Any:
    return dict(list(value.items())[1:]) if isinstance(value, dict) else value[1:]


# Of any file: cut short by a crash, written over, not what its name says.
TORN: dict[str, Damage] = {
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "cut": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data.rstrip()[:-1],
    "other bytes": lambda data: b"\xff\xfe" + data[2:],
    "another file": lambda data: b"<html>" + data,
}

# Of a JSON object in a file.
FOREIGN: dict[str, Damage] = {
    "blank": lambda data: b" \n",
    "not UTF-8": lambda data: data.replace(b'"', b"\xe9", 1),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "null": lambda data: b"null",
    "a list": lambda data: b"[" + data + b"]",
    "a number": lambda data: b"7",
    "a text": lambda data: b'"done"',
    "two objects": lambda data: data + data,
    "deep": lambda data: b"[" * 100_000,
    "an empty object": lambda data: b"{}",
    "a key less": _json(_without_first),
}

# Of a record whose keys are all known.
STRANGE: dict[str, Damage] = {
    "a newer key": _json(lambda value: value | {"since_version_9": 1}),
    "nulls": _json(lambda value: dict.fromkeys(value)),
    "texts": _json(lambda value: dict.fromkeys(value, "1")),
    "lists": _json(lambda value: {k: [] for k in value}),
    "objects": _json(lambda value: {k: {} for k in value}),
    "fractions": _json(lambda value: dict.fromkeys(value, 0.5)),
    "negative": _json(lambda value: {k: -1 if type(v) is int else v for k, v in value.items()}),
    "truths": _json(lambda value: dict.fromkeys(value, True)),
}


def damage_file(path: Path, damage: Damage) -> None:
    """Damage a file in place."""
    before = path.read_bytes()
    after = damage(before)
    assert after != before
    path.write_bytes(after)
