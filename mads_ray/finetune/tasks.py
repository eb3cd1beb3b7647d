"""Questions from a folder of task files: TASK.jsonl or TASK.jsonl.gz, one row a line.

A row has id, split, kind ("mc": prompt, choices, answer; "mc_multi": prompt, best, correct,
incorrect) and the fields that its task's `Format` needs. Rows of other kinds and splits are left
out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mads_ray.errors import ConfigError

_KINDS = ("mc", "mc_multi")


def load(
    folder: str | Path, limit: int | None = None, tasks: Sequence[str] | None = None
) -> list[Question]:
    """At most `limit` test questions of each task, in the order of tasks and ids.

    The choice does not depend on the order of the file. Questions that `mini_ids.json` names come
    first, then all others by a hash of their id. So the questions of a lower limit are among those
    of a higher one. Without `tasks`, all files of known format are read; with an empty list,
    none. Raises ConfigError.
    """
    folder = Path(folder)
    if tasks is not None and not tasks:
        return []
    present = _files(folder)
    wanted = sorted(set(tasks) if tasks is not None else present.keys() & FORMATS.keys())
    unknown = [t for t in wanted if t not in FORMATS or t not in present]
    if unknown or not wanted:
        known = ", ".join(sorted(present.keys() & FORMATS.keys())) or "none"
        raise ConfigError(
            f"{folder}: no task file for {', '.join(unknown) or 'anything'} (there are: {known})"
        )
    return [q for t in wanted for q in _of_task(folder, t, limit)]


def rows_of(
    folder: str | Path,
    task: str,
    kinds: Collection[str],
    limit: int | None = None,
    split: str = "test",
    usable: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> list[dict[str, Any]]:
    """At most `limit` rows of a task's file that are of these kinds, this split and usable.

    They are chosen and ordered as in `load`. Raises ConfigError.
    """
    folder = Path(folder)
    file = _files(folder).get(task)
    if file is None:
        raise ConfigError(f"{folder}: there is no {task}.jsonl or {task}.jsonl.gz")
    first = set(_mini(folder).get(task, ()))
    rows = [r for r in _rows(file) if r.get("kind") in kinds and r.get("split") == split]
    try:
        rows.sort(key=lambda r: (r["id"] not in first, _hash(r["id"])))
        return sorted([r for r in rows if usable(r)][:limit], key=lambda r: str(r["id"]))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ConfigError(f"{file}: a row does not have what {task} needs: {e!r}") from e


def _of_task(folder: Path, task: str, limit: int | None) -> list[Question]:
    rows = rows_of(folder, task, _KINDS, limit)
    try:
        return [FORMATS[task].build(task, r) for r in rows]
    except (KeyError, TypeError, ValueError) as e:
        raise ConfigError(f"{folder}: a row does not have what {task} needs: {e!r}") from e


def _files(folder: Path) -> dict[str, Path]:
    return {f.name.split(".jsonl")[0]: f for f in sorted(folder.glob("*.jsonl*"))}


def _mini(folder: Path) -> dict[str, list[str]]:
    file = folder / "mini_ids.json"
    found: dict[str, list[str]] = {}
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
    return found


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
            yield from (json.loads(line) for line in stream if line.strip())
    except (OSError, EOFError, ValueError) as e:
        raise ConfigError(f"{file}: not a file of JSON lines: {e}") from e


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


Metric = Literal["acc", "acc_norm", "mass"]


@dataclass(frozen=True, slots=True)
class Question:
    """Choice i is `continuations[i]` after `contexts[i]`.

    `right`: the indices of all correct choices. `best`: the one that must beat the wrong ones.
    """

    task: str
    id: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    right: tuple[int, ...]
    best: int


@dataclass(frozen=True, slots=True)
class Format:
    """Builds the questions of a task. Averages use its `metric`."""

    build: Callable[[str, Mapping[str, Any]], Question]
    metric: Metric


def _question(
    task: str, row: Mapping[str, Any], context: str, choices: list[str] | None = None
) -> Question:
    choices = row["choices"] if choices is None else choices
    contexts = (context,) * len(choices)
    answer = int(row["answer"])
    return Question(task, row["id"], contexts, tuple(f" {c}" for c in choices), (answer,), answer)


def _framed(task: str, row: Mapping[str, Any]) -> Question:
    return _question(task, row, f"Question: {row['prompt'].strip()}\nAnswer:")


def _lettered(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    letters = list(string.ascii_uppercase[: len(row["choices"])])
    lines = [f"{x}. {c}" for x, c in zip(letters, row["choices"], strict=True)]
    return "\n".join([row["prompt"].strip(), *lines, "Answer:"]), letters


def _mmlu(task: str, row: Mapping[str, Any]) -> Question:
    text, letters = _lettered(row)
    subject = str(row.get("subject", "")).replace("_", " ")
    about = f" about {subject}" if subject else ""
    head = f"The following are multiple choice questions (with answers){about}.\n\n"
    return _question(task, row, head + text, letters)


def _commonsense(task: str, row: Mapping[str, Any]) -> Question:
    text, letters = _lettered(row)
    return _question(task, row, f"Question: {text}", letters)


def _hellaswag(task: str, row: Mapping[str, Any]) -> Question:
    activity = f"{row['activity']}: " if row.get("activity") else ""
    return _question(
        task, row, _cleaned(activity + row["prompt"]), [_cleaned(c) for c in row["choices"]]
    )


def _cleaned(text: str) -> str:
    """The text without WikiHow's marks in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _boolq(task: str, row: Mapping[str, Any]) -> Question:
    question = row["prompt"].strip().rstrip("?").rstrip()
    words = [{"true": "yes", "false": "no"}.get(c.lower(), c) for c in row["choices"]]
    return _question(task, row, f"{row['passage']}\nQuestion: {question}?\nAnswer:", words)


def _winogrande(task: str, row: Mapping[str, Any]) -> Question:
    """Put each option into the gap and score the ending (Trinh and Le 2018)."""
    before, after = row["prompt"].split("_", 1)
    ending, answer = f" {after.strip()}", int(row["answer"])
    contexts = tuple(before + c for c in row["choices"])
    return Question(task, row["id"], contexts, (ending,) * len(contexts), (answer,), answer)


def _truthful(task: str, row: Mapping[str, Any]) -> Question:
    right = list(dict.fromkeys([*row["correct"], row["best"]]))
    wrong = [c for c in dict.fromkeys(row["incorrect"]) if c not in right]
    texts = tuple(f" {c}" for c in [*right, *wrong])
    contexts = (f"Q: {row['prompt'].strip()}\nA:",) * len(texts)
    best = right.index(row["best"])
    return Question(task, row["id"], contexts, texts, tuple(range(len(right))), best)


def _asked(task: str, row: Mapping[str, Any]) -> Question:
    return _question(task, row, f"Q: {row['prompt'].strip()}\nA:")


FORMATS: Mapping[str, Format] = {
    "arc_challenge": Format(_framed, "acc_norm"),
    "arc_easy": Format(_framed, "acc_norm"),
    "bbh": Format(_asked, "acc"),
    "boolq": Format(_boolq, "acc"),
    "commonsense_qa": Format(_commonsense, "acc"),
    "hellaswag_1k": Format(_hellaswag, "acc_norm"),
    "mmlu": Format(_mmlu, "acc"),
    "openbookqa": Format(_framed, "acc_norm"),
    "piqa": Format(_framed, "acc_norm"),
    "social_iqa": Format(_asked, "acc"),
    "truthfulqa": Format(_truthful, "mass"),
    "winogrande": Format(_winogrande, "acc"),
}
