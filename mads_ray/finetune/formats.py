"""How a row of a task file becomes contexts and continuations, zero shot, without a chat template.

After EleutherAI's lm-evaluation-harness (lm_eval/tasks/*, 2024-2025), with these differences:
OpenBookQA gets the frame of ARC, TruthfulQA has no six worked examples before the question, BBH is
scored by its choices, and HellaSwag's second sentence keeps the case it has in the file.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Metric = Literal["acc", "acc_norm", "mass"]


@dataclass(frozen=True, slots=True)
class Question:
    """Choice i is `continuations[i]` after `contexts[i]`.

    `right` are the indices of all correct choices, `best` the one that must beat the wrong ones.
    """

    task: str
    id: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    right: tuple[int, ...]
    best: int


@dataclass(frozen=True, slots=True)
class Format:
    """Builds questions of a task; `metric` is the one that the averages take."""

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
    """WikiHow left marks in brackets."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _boolq(task: str, row: Mapping[str, Any]) -> Question:
    question = row["prompt"].strip().rstrip("?").rstrip()
    words = [{"true": "yes", "false": "no"}.get(c.lower(), c) for c in row["choices"]]
    return _question(task, row, f"{row['passage']}\nQuestion: {question}?\nAnswer:", words)


def _winogrande(task: str, row: Mapping[str, Any]) -> Question:
    """The ending is scored after each option in the gap (Trinh and Le 2018)."""
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
