"""Labelled pools that repeat themselves, for benchmarks/balance.py.

- `templates`: 1,164 rows of labelled_mix and 776 of two templates of our own, 40% of the pool.
- `junk`: labelled_mix and 200 rows of ten sorts of junk.
- `source60`: 1,500 rows, 60% of one source (Dolly's rows, of one label) and 40% of tasks of P3 and
  Super-NI that labelled_mix has not.

Labels are tasks; those that begin with TEMPLATE, JUNK and SOURCE are no tasks to be reached.

  python benchmarks/repeating_pools.py --output DIR
  mads-ray capture --input DIR/templates.jsonl --label-field task -o RUN

Writes DIR/templates.jsonl, DIR/junk.jsonl and DIR/source60.jsonl.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from finetune_data import KEPT, place, rows_of
from pools import SOURCES

Row = dict[str, str]
FIRST = "Ada Ben Chloe Dan Elif Femi Grace Hugo Ines Jun Kofi Lena Musa Nora Omar Priya Quinn Rosa"
THINGS = "apples bricks candles drums eggs flags gloves hats jars kites lamps maps nails oranges"
PLACES = "market harbour station museum library garden bakery school theatre workshop"
DISHES = "soup stew pie curry salad omelette risotto pancakes dumplings noodles"
GOODS = "leeks rice beans mushrooms pumpkin spinach lentils barley peas tofu carrots fennel"
WORDS = "the of and to in is was for that with on as by at from it an be this which or are were"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True)
    output = Path(parser.parse_args().output)
    output.mkdir(parents=True, exist_ok=True)
    mix = sorted(rows_of("labelled_mix"), key=place)
    pools = {
        "templates": mix[:1164] + templates(776),
        "junk": mix + junk(200),
        "source60": source(),
    }
    for name, rows in pools.items():
        lines = (json.dumps({k: r[k] for k in KEPT}) for r in sorted(rows, key=place))
        (output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(name, len(rows), "rows", len({r["task"] for r in rows}), "labels")


def templates(n: int) -> list[Row]:
    """Five sums of a shop to three recipes."""
    rng, found = np.random.default_rng(1), []
    for i in range(n):
        if i % 8 < 5:
            name, thing, shop = (rng.choice(x.split()) for x in (FIRST, THINGS, PLACES))
            a, b = (int(x) for x in rng.integers(2, 400, 2))
            asked = f"{name} buys {a} {thing} at the {shop} and then {b} more. How many {thing} "
            asked += f"does {name} have now?"
            answer = f"{name} has {a} + {b} = {a + b} {thing}."
            found.append(_row(f"template-{i}", asked, answer, "TEMPLATE-sum"))
        else:
            dish, who = rng.choice(DISHES.split()), rng.choice(FIRST.split())
            one, two = rng.choice(GOODS.split(), 2, replace=False)
            asked = f"Write a short recipe for {dish} with {one} and {two} for {rng.integers(2, 9)}"
            asked += f" guests of {who}."
            answer = f"Wash the {one}. Cook the {two} for {rng.integers(5, 50)} minutes, add the "
            answer += f"{one} and serve the {dish} warm."
            found.append(_row(f"template-{i}", asked, answer, "TEMPLATE-recipe"))
    return found


def junk(n: int) -> list[Row]:
    """Rows of ten sorts in turn."""
    rng = np.random.default_rng(2)
    sorts: tuple[Callable[[np.random.Generator], tuple[str, str]], ...] = (
        lambda r: (_letters(r, 1) * int(r.integers(20, 200)), _letters(r, 1) * int(r.integers(90))),
        lambda r: (" ".join(r.choice(WORDS.split(), 30)), " ".join(r.choice(WORDS.split(), 50))),
        lambda r: (base64.b64encode(r.bytes(120)).decode(), base64.b64encode(r.bytes(60)).decode()),
        lambda r: (f"<div class='{_letters(r, 6)}'><a href='/{_letters(r, 9)}'>", "</a></div>" * 4),
        lambda r: (f"Untitled {r.integers(9999)}", "n/a"),
        lambda r: (_letters(r, 80).encode().hex(), "Ã©Ã¨â€™Â " * int(r.integers(4, 20))),
        lambda r: (_letters(r, 60), _letters(r, 90)),
        lambda r: (
            f"Page {r.integers(900)} of {r.integers(900, 2000)}",
            "All rights reserved. " * 5,
        ),
        lambda r: (" ".join(str(x) for x in r.integers(0, 10**6, 40)), str(r.integers(10**9))),
        lambda r: ("?" * int(r.integers(5, 60)), "I am sorry. " * int(r.integers(1, 30))),
    )
    found = []
    for i in range(n):
        asked, answer = sorts[i % len(sorts)](rng)
        asked, sort = f"{asked} {_letters(rng, 3)}", f"JUNK-{i % len(sorts)}"
        found.append(_row(f"junk-{i}", asked, answer, sort))
    return found


def source() -> list[Row]:
    """900 rows of one source, 600 of other tasks."""
    mix = list(rows_of("labelled_mix"))
    tasks, texts = {r["task"] for r in mix}, {r["instruction"] for r in mix}
    dolly = [r for r in rows_of("dolly15k_dev80") if r["output"].strip()]
    large = [r | {"task": "SOURCE-dolly"} for r in dolly if r["instruction"] not in texts]
    others = defaultdict(list)
    for file in ("t0_p3_labelled", "superni_9tasks"):
        prefix, field = SOURCES[file]
        for row in rows_of(file):
            if prefix + row[field] not in tasks:
                others[prefix + row[field]].append(row | {"task": prefix + row[field]})
    names = sorted(others, key=lambda name: place({"id": f"source60 {name}"}))[:80]
    small = [
        row
        for k, name in enumerate(names, start=1)
        for row in sorted(others[name], key=place)[: max(2, round(70 / k**0.7))]
    ]
    return sorted(large, key=place)[:900] + sorted(small, key=place)[:600]


def _letters(rng: np.random.Generator, n: int) -> str:
    return "".join(rng.choice(list("asdfghjklqwertyuiopzxcvbnm"), n))


def _row(name: str, asked: str, answer: str, task: str) -> Row:
    return {"id": name, "instruction": asked, "input": "", "output": answer, "task": task}


if __name__ == "__main__":
    main()
