"""Records in JSON files: read back into their dataclasses, with every key and type checked.

A marker that does not hold its record counts as absent: what it marks is made again. Other files
are named in an error that says what to do.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mads_ray.errors import reason_of
from mads_ray.stored.damaged import damaged

log = logging.getLogger(__name__)

T = TypeVar("T")
_Read = Callable[[Any, str], Any]  # a value of JSON and its name; raises _ForeignError


class _ForeignError(ValueError):
    """What is wrong with a file, to go on after its path."""


def read_marker(path: Path, kind: type[T]) -> T | None:
    """The record in a file that marks finished work; None where it is absent.

    A file that is torn or foreign counts as absent, and is named in the log. `kind` is a dataclass,
    or a plain type of JSON such as `dict`.
    """
    try:
        return _read(path, kind)
    except FileNotFoundError:
        return None
    except _ForeignError as e:
        log.warning("%s %s: it counts as absent, and what it marks is made again", path, e)
        return None


def read_kept(path: Path, kind: type[T], remedy: str) -> T | None:
    """The record in a file that is not made again unasked; None where there is no such file.

    Raises DamagedFileError, with the remedy, where the file is torn or foreign.
    """
    try:
        return _read(path, kind)
    except FileNotFoundError:
        return None
    except _ForeignError as e:
        raise damaged(path, str(e), remedy) from e


def record_of(path: Path, kind: type[T], stored: Mapping[str, Any], remedy: str) -> T:
    """A record from a part of a file's content. Raises DamagedFileError as `read_kept`."""
    try:
        found: T = _reader_of(kind)(stored, "")
    except _ForeignError as e:
        raise damaged(path, str(e), remedy) from e
    return found


def _read(path: Path, kind: type[T]) -> T:
    data = path.read_bytes()
    if not data.strip(b"\0 \t\r\n"):  # after a power cut some file systems leave zeros
        raise _ForeignError("is empty")
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise _ForeignError("is not UTF-8") from e
    except (ValueError, RecursionError) as e:
        raise _ForeignError(f"breaks off or is no JSON ({reason_of(e, 100)})") from e
    found: T = _reader_of(kind)(value, "")
    return found


# --- readers of types: one for each annotation that a stored dataclass has ---


def _reader_of(kind: Any) -> _Read:
    return _reader(kind)


@cache
def _reader(kind: Any) -> _Read:
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    if kind is Any:
        return lambda value, name: value
    if kind is int:
        return _count
    if kind is float:
        return _number
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        assert len(args) == 2, kind
        assert args[1] is types.NoneType, kind
        inner = _reader(args[0])
        return lambda value, name: None if value is None else inner(value, name)
    if origin is tuple:
        assert args[1:] == (...,), kind
        each = _reader(args[0])
        return lambda value, name: tuple(each(v, name) for v in _plain(value, name, list))
    if origin is dict and args[1] is not Any:
        of_key = _reader(args[1])
        return lambda value, name: {
            key: of_key(v, f"{name}.{key}") for key, v in _plain(value, name, dict).items()
        }
    plain = origin or kind
    assert plain in (str, bool, dict, list), kind
    return lambda value, name: _plain(value, name, plain)


def _dataclass_reader(kind: Any) -> _Read:
    hints = typing.get_type_hints(kind)
    readers = {f.name: _reader(hints[f.name]) for f in dataclasses.fields(kind)}
    required = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]

    def read(value: Any, name: str) -> Any:
        within = f" in {name}" if name else ""
        stored = _plain(value, name, dict)
        lacking = [n for n in required if n not in stored]
        if lacking:
            raise _ForeignError(
                f"lacks {lacking[0]!r}{within}: another program or version wrote it"
            )
        unknown = sorted(stored.keys() - readers.keys())
        if unknown:
            raise _ForeignError(
                f"has {unknown[0]!r}{within}, which this version of mads_ray does not know: a "
                "newer version wrote it"
            )
        return kind(**{n: readers[n](v, f"{name}.{n}" if name else n) for n, v in stored.items()})

    return read


_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


def _plain(value: Any, name: str, kind: type) -> Any:
    if type(value) is not kind:
        raise _ForeignError(_not(value, name, _NAMES[kind]))
    return value


def _count(value: Any, name: str) -> int:
    # All whole numbers that are stored are counts and sizes.
    if type(value) is not int or value < 0:
        raise _ForeignError(_not(value, name, "a whole number from 0 on"))
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _ForeignError(_not(value, name, "a finite number"))
    return float(value)


def _not(value: Any, name: str, wanted: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"has {shown} where {name or 'it'} must be {wanted}"
