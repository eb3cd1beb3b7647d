"""The golden check by hand: more scenarios than the suite has time for.

  python tests/golden [--whole] [--write] [--dump FOLDER]

--whole: the whole sample corpus, too. --write: store the digests of what is computed now. --dump:
write all that digests are of, to compare two versions of the code with `diff -r`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("RAY_ADDRESS", None)

import stored
from doors import local_ray
from machine import machine
from outcomes import SAMPLE, Outcomes, of_integers, of_model, write_corpus
from scenarios import (
    ALONE,
    CAPTURE,
    CAPTURE_WHOLE,
    EXCHANGED,
    OF_THE_MODEL,
    OF_THE_WHOLE,
    SUMMARIES,
    TOGETHER,
    WORKERS,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--dump", type=Path)
    args = parser.parse_args()
    before = stored.load()
    with (
        tempfile.TemporaryDirectory(prefix="golden-") as work,
        local_ray(num_cpus=3, object_store_memory=300_000_000, logging_level=logging.ERROR),
    ):
        found = check(Path(work), args.whole, args.dump)
    anew = {"anywhere": found["anywhere"], "machines": {machine(): found["here"]}}
    lines = stored.differences(before, anew)
    print(*(lines or ["all as stored"]), sep="\n")
    changed = [line for line in lines if line.startswith("differs")]
    if args.write:
        # What was stored of other machines, and was not computed now, is no longer true.
        stored.save(anew if changed else stored.laid_over(before, anew))
        return 0
    return 1 if changed or stored.differences(before["anywhere"], anew["anywhere"]) else 0


def check(work: Path, whole: bool, dump: Path | None) -> dict[str, dict[str, Any]]:
    """Digests by corpus, scenario and part: `anywhere`, and those that hold `here`."""

    def at(name: str) -> dict[str, Any]:
        return {"work": work / name, "dump": dump / name if dump is not None else None}

    integers = of_integers(**at("integers"))
    anywhere = {"integers": by_any_workers(integers, TOGETHER | ALONE)}
    here = {"integers": integers.all(SUMMARIES)}
    write_corpus(work / "corpus")
    part = of_model(**at("part"), corpus=work / "corpus", capturing=CAPTURE)
    anywhere["part"] = {"reading": part.reading()}
    here["part"] = {"states": part.captured(), **part.all(OF_THE_MODEL)}
    if whole:
        sample = of_model(**at("whole"), corpus=SAMPLE, capturing=CAPTURE_WHOLE)
        anywhere["whole"] = {"reading": sample.reading()}
        here["whole"] = {"states": sample.captured(), **by_any_workers(sample, OF_THE_WHOLE)}
    return {"anywhere": anywhere, "here": here}


def by_any_workers(outcomes: Outcomes, scenarios: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Digests by scenario; those that exchange hold for three workers, too."""
    found = outcomes.all(scenarios)
    for name in scenarios.keys() & set(EXCHANGED):
        same = outcomes.of(f"{name}, 3 workers", scenarios[name] | WORKERS)
        assert same == found[name], f"{name}: the number of workers makes a difference"
    return found


if __name__ == "__main__":
    sys.exit(main())
