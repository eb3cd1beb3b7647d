"""Two labelled pools beside labelled_mix, of tasks that it has not: see docs/evidence.md.

P3 templates, Super-NI tasks, the groups of OpenOrca and Dolly rows, GPTeacher and CodeAlpaca parts,
in random order; the first 85 tasks are pool B, the others pool C. The k-th task gives
most / k^0.75 rows, at least 2.

  python benchmarks/pools.py --output DIR
  mads-ray capture --input DIR/B.jsonl --label-field task -o RUN

Writes DIR/B.jsonl and DIR/C.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from finetune_data import KEPT, rows_of

SOURCES = {
    "t0_p3_labelled": ("t0/", "template"),
    "superni_9tasks": ("ni/", "task"),
    "rico_assessment_1020": ("ra/", "group"),
    "gpteacher_code_roleplay": ("x/", "part"),
    "codealpaca_2k": ("x/", "part"),
}
POOLS = {"B": (slice(0, 85), 160), "C": (slice(85, None), 120)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True)
    output = Path(parser.parse_args().output)
    output.mkdir(parents=True, exist_ok=True)
    mix = list(rows_of("labelled_mix"))
    tasks, ids = {r["task"] for r in mix}, {r["id"] for r in mix}
    others: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file, (prefix, field) in SOURCES.items():
        for row in rows_of(file):
            task = prefix + str(row[field])
            if task not in tasks and row["id"] not in ids:
                others[task].append(row)
    for name, (some, most) in POOLS.items():
        rng = np.random.default_rng(7)
        order = sorted(others)
        rng.shuffle(order)
        rows = []
        for k, task in enumerate(order[some], start=1):
            picks = rng.permutation(len(others[task]))[: max(2, round(most / k**0.75))]
            rows += [others[task][i] | {"task": task} for i in picks]
        rows.sort(key=lambda r: hashlib.sha256(r["id"].encode()).hexdigest())
        lines = (json.dumps({k: r[k] for k in KEPT}) for r in rows)
        (output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(name, len(rows), "rows", len({r["task"] for r in rows}), "tasks")


if __name__ == "__main__":
    main()
