"""Our core sets beside published ones of Stanford-Alpaca, at their sizes, on a sample of the pool.

The rows are in stanford_alpaca_partial.jsonl.gz (see `finetune_data.py` for its folder). Each says
which published core sets hold it: AlpaGasus' scores by Claude and its random 9k, Cherry's 5% by
instruction-following difficulty, the longest 1k and the 1k of the highest score of "Long Is More",
RICO's of two models. There are no task labels, so length and diversity are compared. A share of the
pool, by a hash of the id, is captured. A published core set counts with those of its rows that are
in this share, beside as many rows of ours and as many random ones (mean of 5 draws).

  python benchmarks/published.py --work DIR [--share 0.1] [--store NAME]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mads_ray import (
    CaptureConfig,
    CorpusConfig,
    RayConfig,
    RunConfig,
    capture_states,
    evaluate,
    select,
)
from mads_ray.pipeline.runtime.session import ray_session

sys.path.insert(0, str(Path(__file__).parent))
from finetune_data import rows_of
from results import store
from task_coverage import read_labels

DRAWS = 5
METRICS = ("novelsum_0", "novelsum_05", "facility_location", "vendi", "neuron_coverage")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", required=True, help="folder for the states and core sets")
    parser.add_argument("--share", type=float, default=0.1, help="of the pool that is captured")
    parser.add_argument("--store", help="name of the result under benchmarks/results")
    args = parser.parse_args()
    work = Path(args.work).absolute()
    work.mkdir(parents=True, exist_ok=True)
    with ray_session(RayConfig()):
        compare(args, work)


def compare(args: argparse.Namespace, work: Path) -> None:
    members, pool_file = sample(args.share, work)
    config = RunConfig(
        input=(str(pool_file),),
        output=str(work / "run"),
        corpus=CorpusConfig(label_field="id"),
        capture=CaptureConfig(),
    )
    capture_states(config)
    uid_of = {label: uid for uid, label in read_labels(work / "run").items()}
    uids = sorted(uid_of.values())
    published = {
        name: [uid_of[i] for i in ids if i in uid_of] for name, ids in sorted(members.items())
    }
    files: dict[str, Path] = {}
    for name, rows in published.items():
        files[f"{name}:published"] = written(work, f"{name}.published", rows)
    for size in {len(rows) for rows in published.values()}:
        ours = select(size_config(work, size), work / "run", overwrite=True).selection()
        picked = ours.filter(ours["rank"].is_valid()).column("uid").to_pylist()
        files[f"{size}:mads_ray"] = written(work, f"{size}.mads", picked)
        for seed in range(DRAWS):
            draw = np.random.default_rng(seed).choice(uids, size, replace=False).tolist()
            files[f"{size}:random{seed}"] = written(work, f"{size}.random{seed}", draw)
    folder = size_config(work, size).output
    found = evaluate(folder, files)
    result: dict[str, Any] = {
        "benchmark": "published",
        "rows": len(uids),
        "share": args.share,
        "mean_tokens": round(found["pool"]["mean_tokens"], 1),
        "core_sets": table(published, found["core_sets"]),
    }
    for name, row in result["core_sets"].items():
        print(name, row["rows"])
        for who, figures in row.items():
            if who != "rows":
                print(f"    {who:10}", figures)
    if args.store:
        store(args.store, result)
    print(json.dumps(result))


def sample(share: float, work: Path) -> tuple[dict[str, list[str]], Path]:
    """Ids in the sample by published core set, and the file of its rows."""
    members: dict[str, list[str]] = defaultdict(list)
    lines = []
    for row in rows_of("stanford_alpaca_partial"):
        if int(hashlib.sha256(row["id"].encode()).hexdigest()[:8], 16) < share * 2**32:
            lines.append(json.dumps({k: row[k] for k in ("id", "instruction", "input", "output")}))
            for name in row["core_sets"]:
                members[name].append(row["id"])
    file = work / "pool.jsonl"
    text = "\n".join(lines) + "\n"
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
    return members, file


def size_config(work: Path, size: int) -> RunConfig:
    return RunConfig(output=str(work / f"mads-{size}"), selection={"size": size})


def written(work: Path, name: str, uids: list[str]) -> Path:
    file = work / f"{name}.txt"
    file.write_text("\n".join(uids) + "\n", encoding="utf-8")
    return file


def table(published: dict[str, list[str]], found: dict[str, Any]) -> dict[str, Any]:
    """For every published core set its own figures and those of the same number of other rows."""
    rows: dict[str, Any] = {}
    for name, uids in published.items():
        size = len(uids)
        rows[name] = {
            "rows": size,
            "published": figures([found[f"{name}:published"]]),
            "mads_ray": figures([found[f"{size}:mads_ray"]]),
            "random": figures([found[f"{size}:random{s}"] for s in range(DRAWS)]),
        }
    return rows


def figures(of: list[dict[str, Any]]) -> dict[str, float]:
    """Means over core sets."""
    return {m: round(float(np.mean([f[m] for f in of])), 4) for m in ("mean_tokens", *METRICS)}


if __name__ == "__main__":
    main()
