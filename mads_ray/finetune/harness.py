"""Score written answers with lm-evaluation-harness (`lm_eval`, the extra "harness").

GSM8K and IFEval run with the harness's own task files: prompts, greedy generation, extraction and
scores are the harness's. Only the rows come from a folder of task files, as for multiple choice.
They are written with a task file that includes the harness's, so that its own command can use them
too (`lm_eval --include_path`). Models with a chat template get prompts in it. Two things differ
from the published tasks: GSM8K's worked examples are always the same five, and 64 of IFEval's 541
prompts are left out. The fine-tunes here do not learn where a turn ends, so answers of tuned models
may not stop.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mads_ray.errors import ConfigError
from mads_ray.finetune.tasks import rows_of
from mads_ray.storage import write_text

# The score of each task that averages use, by the harness's name.
METRICS: Mapping[str, str] = {
    "gsm8k": "exact_match,flexible-extract",
    "ifeval": "prompt_level_strict_acc,none",
}
# These cut text into sentences or words with a model that NLTK downloads. They are left out on
# every machine, so that all machines ask the same prompts.
_BY_NLTK = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}


@dataclass(frozen=True, slots=True)
class Written:
    """The number `n` of a task's prompts, and all its scores from the harness, from 0 to 1."""

    n: int
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Rows by task, with the fields of the harness's data sets. `examples` are shown, not asked."""

    asked: dict[str, list[dict[str, Any]]]
    examples: dict[str, list[dict[str, Any]]]


def read_prompts(folder: str | Path, tasks: Sequence[str], limit: int | None = None) -> Prompts:
    """At most `limit` prompts of each task, chosen as `tasks.load` chooses questions.

    Prompts of IFEval that need NLTK's models are left out. `lm_eval` is not needed. Raises
    ConfigError for unknown tasks and broken files.
    """
    unknown = sorted(set(tasks) - METRICS.keys())
    if unknown:
        raise ConfigError(f"evaluation.generate: {unknown[0]!r} is none of {', '.join(METRICS)}")
    prompts = Prompts({}, {})
    try:
        if "gsm8k" in tasks:
            rows, shown = (
                rows_of(folder, "gsm8k", ("gen",), most, split)
                for most, split in ((limit, "test"), (None, "fewshot"))
            )
            prompts.asked["gsm8k"] = [_worked(r) for r in rows]
            prompts.examples["gsm8k"] = [_worked(r) for r in shown]
        if "ifeval" in tasks:
            rows = rows_of(folder, "ifeval", ("ifeval",), limit, usable=_checkable)
            prompts.asked["ifeval"] = [_instructed(i, r) for i, r in enumerate(rows)]
    except (KeyError, TypeError, AttributeError) as e:
        raise ConfigError(f"{folder}: a row lacks what its task needs: {e!r}") from e
    empty = [t for t, rows in prompts.asked.items() if not rows]
    if empty or any(len(rows) < 5 for rows in prompts.examples.values()):
        raise ConfigError(f"{folder}: {empty[0] if empty else 'gsm8k'} has too few rows")
    return prompts


def require() -> None:
    """Raise ConfigError where the harness, or what IFEval needs, is not installed."""
    try:
        for module in ("lm_eval.models.huggingface", "langdetect", "immutabledict"):
            importlib.import_module(module)
    except ImportError as e:
        raise ConfigError(
            f"evaluation.generate needs lm-evaluation-harness ({e}): "
            "pip install 'mads_ray[harness]'"
        ) from e


def write_tasks(prompts: Prompts, folder: Path) -> list[Path]:
    """Write TASK.yaml and the rows of each task, for `lm_eval --include_path`. Return the files."""
    import lm_eval

    files = []
    theirs = Path(lm_eval.__file__).parent / "tasks"
    for task, rows in prompts.asked.items():
        parts = {"train": rows}  # the only split of IFEval
        if task in prompts.examples:
            parts = {"train": prompts.examples[task], "test": rows}
        data = {name: str(folder / f"{task}-{name}.jsonl") for name in parts}
        for name, part in parts.items():
            text = "\n".join(json.dumps(r, ensure_ascii=False) for r in part)
            write_text(Path(data[name]), text + "\n")
        config: dict[str, Any] = {
            "include": str(theirs / task / f"{task}.yaml"),
            "task": f"{task}_local",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": data, "cache_dir": str(folder / "cache")},
        }
        if task in prompts.examples:  # else the harness draws others
            config["fewshot_config"] = {"sampler": "first_n"}
        files.append(folder / f"{task}.yaml")
        write_text(files[-1], json.dumps(config, indent=1) + "\n")  # JSON is YAML
    return files


def written(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    folder: Path,
    max_new_tokens: int | None = None,
    batch: int = 16,
    bf16: bool = False,
) -> dict[str, Written]:
    """Let a model write its answers, `batch` at a time; return the scores by task.

    `folder` keeps the task files. `max_new_tokens`: most tokens of an answer, None for the task's
    own limit (GSM8K 256, IFEval 1,280). Changes the padding of the tokenizer. Raises what `lm_eval`
    raises.
    """
    from lm_eval.models.huggingface import HFLM

    precision = {"mixed_precision_dtype": torch.bfloat16} if bf16 else {}
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, **precision)
    return scored(lm, prompts, folder, max_new_tokens, tokenizer.chat_template is not None)


def scored(
    lm: Any,
    prompts: Prompts,
    folder: Path,
    max_new_tokens: int | None = None,
    chat: bool = False,
) -> dict[str, Written]:
    """As `written`, for any model of the harness (`lm_eval.api.model.LM`)."""
    import langdetect
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    langdetect.DetectorFactory.seed = 0  # IFEval detects languages with it, and it is random
    files = write_tasks(prompts, folder)
    found = simple_evaluate(
        lm,
        tasks=[f"{f.stem}_local" for f in files],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        gen_kwargs={"max_gen_toks": max_new_tokens} if max_new_tokens else None,
        bootstrap_iters=0,
        log_samples=False,
    )
    assert found is not None, "only other ranks of a distributed run get nothing"
    of = {f.stem: found["results"][f"{f.stem}_local"] for f in files}
    return {
        task: Written(
            len(prompts.asked[task]),
            {k: float(v) for k, v in scores.items() if "," in k and "_stderr," not in k},
        )
        for task, scores in of.items()
    }


def average(of: Mapping[str, Written]) -> float:
    """The mean over tasks, each with its own metric."""
    return sum(w.scores[METRICS[t]] for t, w in of.items()) / len(of)


def _worked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The rationale ends with #### and the answer."""
    return {"question": str(row["prompt"]), "answer": str(row["rationale"])}


def _instructed(key: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": key,
        "prompt": str(row["prompt"]),
        "instruction_id_list": _instructions(row),
        "kwargs": list(row["kwargs"]),
    }


def _instructions(row: Mapping[str, Any]) -> list[str]:
    return [i.removeprefix("en:") for i in row["instruction_id_list"]]


def _checkable(row: Mapping[str, Any]) -> bool:
    return not _BY_NLTK & set(_instructions(row))
