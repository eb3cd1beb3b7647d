"""The flags that commands share, as typer wants them, and the field of `RunConfig` each sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mads_ray.config import parse_yaml
from mads_ray.errors import ConfigError
from mads_ray.printable import shortened

Input = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="File, folder or glob; s3://, gs://, hf://. Repeatable."),
]
Sample = Annotated[bool, typer.Option("--sample", help="Use the sample corpus in the package.")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Folder of the run.")]
Config = Annotated[str | None, typer.Option("--config", "-c", help="YAML file, or a run.json.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Hub name, local folder, or smollm2-135m.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Hub revision of the model.")]
HookModule = Annotated[
    str | None,
    typer.Option("--hook-module", help="Of an unknown architecture: 'layers.*.mlp.down_proj'."),
]
Engine = Annotated[str | None, typer.Option("--engine", help="transformers or vllm.")]
Fraction = Annotated[float | None, typer.Option("--fraction", help="Budget: share of examples.")]
Size = Annotated[int | None, typer.Option("--size", help="Budget: number of examples.")]
Tokens = Annotated[int | None, typer.Option("--tokens", help="Budget: number of tokens.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seeds k-means, ties and random core sets.")
]
Objective = Annotated[str | None, typer.Option("--objective", help="sqrt, log1p, union or cap:T.")]
Format = Annotated[str | None, typer.Option("--output-format", help="jsonl or parquet.")]
Label = Annotated[
    str | None, typer.Option("--label-field", help="Field that names a row's task, for the report.")
]
FieldMap = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        help="Field map, e.g. --field prompt=ask --field response=reply.text. Also: messages, "
        "system, input, history, tools.",
    ),
]
Split = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        help="Splits to read of folders, e.g. train,test, or all; default: not test, validation.",
    ),
]
SkipBroken = Annotated[
    bool,
    typer.Option("--skip-broken-files", help="Leave out files in folders that cannot be read."),
]
TextOnly = Annotated[
    bool,
    typer.Option("--text-only", help="Read rows with images, audio or video without these."),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="mads, random, length-matched-random, kmeans, k-center or raw-topk-union.",
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option("--compare", help="Another method to show beside it in the report. Repeatable."),
]
BaseCoreSet = Annotated[
    str | None,
    typer.Option("--base-core-set", help="Run folder whose core set is to be extended."),
]
Target = Annotated[
    list[str] | None,
    typer.Option("--target", help="File of target examples, to select for their neurons."),
]
QualityColumn = Annotated[
    str | None, typer.Option("--quality-column", help="Field with a number: higher is better.")
]
QualityWeight = Annotated[
    float | None,
    typer.Option("--quality-weight", help="Best quality, in coverage of a random example [0.1]."),
]
FloorCluster = Annotated[
    int | None, typer.Option("--floor-per-cluster", help="At least so many of each cluster.")
]
CapCluster = Annotated[
    int | None, typer.Option("--cap-per-cluster", help="At most so many of each cluster.")
]
FloorSource = Annotated[
    int | None, typer.Option("--floor-per-source", help="At least so many of each file.")
]
CapSource = Annotated[
    int | None, typer.Option("--cap-per-source", help="At most so many of each file.")
]
NearDuplicates = Annotated[
    float | None,
    typer.Option("--near-duplicates", help="Collapse rows that share this much, e.g. 0.95."),
]
CalibrationFrom = Annotated[
    str | None,
    typer.Option("--calibration-from", help="Run folder whose calibration to use."),
]
Workers = Annotated[int | None, typer.Option("--workers", help="Capture workers.")]
Address = Annotated[str | None, typer.Option("--ray-address", help="Ray cluster to run on.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, e.g. --set capture.max_tokens=1024."),
]

Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace a finished core set of other settings in --output."),
]
CoreSets = Annotated[
    list[str] | None,
    typer.Option(
        "--core-set",
        help="Another core set beside it, NAME=PATH: a run folder, core_set/ files, or uids in a "
        "text file. Repeatable.",
    ),
]
Vectors = Annotated[str, typer.Option("--vectors", help="sketch, or hidden where stored.")]
SampleRows = Annotated[
    int, typer.Option("--sample", help="Rows of each set and of the pool whose vectors to compare.")
]
HeadRows = Annotated[
    int, typer.Option("--rows", min=1, help="Rows to look at, from the head of each file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, not text.")]

SAMPLE = Path(__file__).parent / "sample_corpus"

_FIELDS = {
    "output": "output",
    "seed": "seed",
    "output_format": "output_format",
    "model": "capture.model",
    "revision": "capture.revision",
    "hook_module": "capture.hook_module",
    "engine": "capture.engine",
    "fraction": "selection.fraction",
    "size": "selection.size",
    "tokens": "selection.tokens",
    "objective": "selection.objective",
    "label_field": "corpus.label_field",
    "split": "corpus.split",
    "calibration_from": "capture.calibration_from",
    "workers": "ray.workers",
    "ray_address": "ray.address",
}
_FIELDS |= {
    name: f"selection.{name}"
    for name in (
        "method",
        "compare",
        "base_core_set",
        "target",
        "quality_column",
        "quality_weight",
        "floor_per_cluster",
        "cap_per_cluster",
        "floor_per_source",
        "cap_per_source",
        "near_duplicates",
    )
}
_FILES = ("selection.base_core_set", "selection.target", "capture.calibration_from")


def overrides_of(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags that were given, by the dotted name of their field."""
    found = {_FIELDS[k]: v for k, v in flags.items() if k in _FIELDS and v not in (None, [])}
    patterns = list(flags.get("input") or []) + ([str(SAMPLE)] if flags.get("sample") else [])
    if patterns:
        found["input"] = [_whole(p) for p in patterns]
    for name in _FILES:
        if name in found:
            value = found[name]
            found[name] = _whole(value) if isinstance(value, str) else [_whole(p) for p in value]
    if flags.get("skip_broken_files"):
        found["corpus.skip_broken_files"] = True
    if flags.get("text_only"):
        found["corpus.text_only"] = True
    if flags.get("field"):
        found["corpus.fields"] = dict(_pair(text, "--field") for text in flags["field"])
    for text in flags.get("set_") or []:
        name, value = _pair(text, "--set")
        try:
            found[name] = parse_yaml(value)
        except ConfigError as e:
            told = f"--set {shortened(text, 200)}: {shortened(repr(value), 200)}"
            raise ConfigError(f"{told} is not a YAML value") from e
    return found


def named_paths(texts: list[str] | None) -> dict[str, str]:
    """Of NAME=PATH flags; a name may come once."""
    pairs = [_pair(text, "--core-set") for text in texts or []]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ConfigError("--core-set: every core set needs a name of its own")
    return found


def _whole(path: str) -> str:
    """run.json must tell where a file is from any folder."""
    if not path:  # of a variable that is not set; it would become the working folder
        raise ConfigError("an empty path names nothing")
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{flag} {text}: expected NAME=VALUE")
    return name.strip(), value.strip()
