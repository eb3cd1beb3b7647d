"""Flags are made from the settings: type, allowed values, default and help are the field's own."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mads_ray.cli.friendly import friendly
from mads_ray.config import RunConfig, former_names, load_config, parse_yaml
from mads_ray.config.settings import Setting, settings
from mads_ray.errors import ConfigError
from mads_ray.paths import absolute
from mads_ray.printable import shortened

# The setting that each flag (and its short form) gives, in the order of --help. To add a flag, add
# a line. A setting without a line is reached by --set. A flag of a former name is hidden.
FLAGS = {
    "--input -i": "input",
    "--output -o": "output",
    "--seed": "seed",
    "--output-format": "output_format",
    "--label-field": "corpus.label_field",
    "--field": "corpus.fields",
    "--split": "corpus.split",
    "--skip-broken-files": "corpus.skip_broken_files",
    "--text-only": "corpus.text_only",
    "--model -m": "capture.model",
    "--revision": "capture.revision",
    "--hook-module": "capture.hook_module",
    "--engine": "capture.engine",
    "--calibration-from": "capture.calibration_from",
    "--fraction": "selection.fraction",
    "--size": "selection.size",
    "--token-budget": "selection.token_budget",
    "--tokens": "selection.tokens",
    "--balance": "selection.balance",
    "--objective": "selection.objective",
    "--method": "selection.method",
    "--compare": "selection.compare",
    "--base-core-set": "selection.base_core_set",
    "--target": "selection.target",
    "--quality-column": "selection.quality_column",
    "--quality-weight": "selection.quality_weight",
    "--floor-per-cluster": "selection.floor_per_cluster",
    "--cap-per-cluster": "selection.cap_per_cluster",
    "--floor-per-source": "selection.floor_per_source",
    "--cap-per-source": "selection.cap_per_source",
    "--near-duplicates": "selection.near_duplicates",
    "--workers": "ray.workers",
    "--ray-address": "ray.address",
}

SAMPLE = Path(__file__).parents[1] / "sample_corpus"

_CONFIG = Annotated[str | None, typer.Option("--config", "-c", help="YAML file, or a run.json.")]
_SAMPLE = Annotated[bool, typer.Option("--sample", help="Use the sample corpus in the package.")]
_SET = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, e.g. --set capture.max_tokens=1024."),
]
_FIRST = ("states", "input", "sample", "output", "config")  # in --help


@dataclass(frozen=True, slots=True)
class Given:
    """What a command line says of the configuration: a file, and settings by name over it."""

    file: str | None
    overrides: dict[str, Any]

    def load(self, **otherwise: Any) -> RunConfig:
        """The configuration; `otherwise` counts where no flag says it. Raises ConfigError."""
        return load_config(self.file, otherwise | self.overrides)


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of these settings (of a group: all of its flags), and its errors.

    The command takes `given: Given`, which holds what these flags, --config and --set said.
    """
    taken = [n for n in FLAGS.values() if n in names or _setting(n).group in names]
    flags = [_flag(name) for name in taken]
    flags += [_parameter("config", _CONFIG, None), _parameter("set_", _SET, None)]
    if "input" in taken:
        flags.append(_parameter("sample", _SAMPLE, False))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for name, p in signature.parameters.items() if name != "given"]
        parameters = sorted(
            [*(p.replace(kind=p.KEYWORD_ONLY) for p in own), *flags],
            key=lambda p: _FIRST.index(p.name) if p.name in _FIRST else len(_FIRST),
        )

        @functools.wraps(command)
        def called(**said: Any) -> None:
            with friendly():
                rest = {p.name: said.pop(p.name) for p in own}
                file, others = said.pop("config"), said.pop("set_")
                sample = said.pop("sample", False)
                found = {name.replace("__", "."): value for name, value in said.items()}
                command(given=Given(file, _overrides(found, sample, others or [])), **rest)

        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorate


def option(name: str, panel: str = "") -> Any:
    """The typer option of a setting, below this heading in --help."""
    (flags,) = (f for f, n in FLAGS.items() if n == name)
    return typer.Option(
        *flags.split(),
        help=help_of(_setting(name)),
        rich_help_panel=panel.capitalize() or None,
        hidden=name in former_names(),
    )


def help_of(setting: Setting) -> str:
    """The first sentence of the description, with the allowed values and the default."""
    text = re.split(r"\. (?=[A-Z])", setting.description)[0].removesuffix(".")
    if setting.values:
        values = f"{', '.join(setting.values[:-1])} or {setting.values[-1]}"
        text += f"; NAME=VALUE, with NAME {values}" if setting.shape == "map" else f": {values}"
    if setting.shape == "one" and setting.kind is not bool and setting.default is not None:
        text += f" (default: {setting.default})"
    return text + ("." if setting.shape == "one" else ". Repeatable.")


def named_paths(texts: list[str] | None) -> dict[str, str]:
    """Of NAME=PATH flags; a name may come once."""
    pairs = [_pair(text, "--core-set") for text in texts or []]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ConfigError("--core-set: every core set needs a name of its own")
    return found


def _setting(name: str) -> Setting:
    return settings()[former_names().get(name, name)]


def _flag(name: str) -> inspect.Parameter:
    setting = _setting(name)
    kind: Any = str if setting.shape == "map" else setting.kind
    kind = kind if setting.shape == "one" else list[kind]
    kind = kind if kind is bool else kind | None
    return _parameter(
        name.replace(".", "__"),
        Annotated[kind, option(name, setting.group)],
        False if kind is bool else None,
    )


def _parameter(name: str, annotation: Any, default: bool | None) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _overrides(found: dict[str, Any], sample: bool, others: list[str]) -> dict[str, Any]:
    """Settings that were given, by name."""
    given = {n: v for n, v in found.items() if not (v is None or v is False or v == [])}
    patterns = [*given.pop("input", []), *([str(SAMPLE)] if sample else [])]
    if patterns:
        given["input"] = [absolute(p) for p in patterns]  # run.json must tell from any folder
    for name, value in given.items():
        if _setting(name).shape == "map":
            flag = next(f for f, n in FLAGS.items() if n == name)
            given[name] = dict(_pair(text, flag) for text in value)
    for text in others:
        name, value = _pair(text, "--set")
        try:
            given[name] = parse_yaml(value)
        except ConfigError as e:
            told = f"--set {shortened(text, 200)}: {shortened(repr(value), 200)}"
            raise ConfigError(f"{told} is not a YAML value") from e
    return given


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{flag} {text}: expected NAME=VALUE")
    return name.strip(), value.strip()
