"""Pool and held-out rows of the fine-tuning bench.

Pool: labelled_mix, 95 tasks of very unequal size. Held out: the same number of other rows of every
task (fewer where there are no more), so that each task counts alike. Rows without a response and
rows of the pool are left out. The hash of its id decides on a row.

The corpora are not in this repository. The folder `CORPORA` must hold NAME.jsonl.gz for
labelled_mix and for each name in `SOURCES`: a row a line, with id, instruction, input, output, and
the task or the field that `SOURCES` names.

  python benchmarks/finetune_data.py --output DIR [--per-task 2]

Writes DIR/pool.jsonl and DIR/held_out.jsonl.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CORPORA = Path(__file__).parents[1] / "../shared/data/corpora"
# Where other rows of a task come from: the task's name, or the field that holds its rest.
SOURCES: dict[str, tuple[str, str | None]] = {
    "t0_p3_labelled": ("t0/", "template"),
    "superni_9tasks": ("superni/", "task"),
    "stanford_alpaca_partial": ("alpaca", None),
    "dolly15k_dev80": ("dolly", None),
    "gsm8k_train": ("gsm8k", None),
    "codealpaca_2k": ("code", None),
    "gpteacher_code_roleplay": ("gpteacher", None),
    "alpaca_gpt4_zh_1k": ("zh", None),
}
KEPT = ("id", "instruction", "input", "output", "task")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True)
    parser.add_argument("--per-task", type=int, default=2)
    args = parser.parse_args()
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    pool = list(rows_of("labelled_mix"))
    tasks = {r["task"] for r in pool}
    known = {text_of(r) for r in pool}
    others = defaultdict(list)
    for file, (name, field) in SOURCES.items():
        for row in rows_of(file):
            task = name + row[field] if field else name
            if task in tasks and row["output"].strip() and text_of(row) not in known:
                others[task].append(row | {"task": task})
    held_out = [
        row for task in sorted(others) for row in sorted(others[task], key=place)[: args.per_task]
    ]
    for name, rows in (("pool", pool), ("held_out", held_out)):
        lines = (json.dumps({k: r[k] for k in KEPT}, ensure_ascii=False) for r in rows)
        (output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(json.dumps({"pool": len(pool), "held_out": len(held_out), "tasks": len(others)}))


def rows_of(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(CORPORA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def text_of(row: dict[str, Any]) -> tuple[str, str]:
    return row["instruction"].strip(), row["input"].strip()


def place(row: dict[str, Any]) -> str:
    return hashlib.sha256(row["id"].encode()).hexdigest()


if __name__ == "__main__":
    main()
