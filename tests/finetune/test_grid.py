"""A small grid on the real model's first layers: in order, in steps, on a bare machine."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mads_ray.capture import SMOLLM2
from mads_ray.errors import ConfigError, MismatchError
from mads_ray.finetune.__main__ import main
from mads_ray.finetune.cells import cells_of
from mads_ray.finetune.config import Evaluation, GridConfig, Regime, Training
from mads_ray.finetune.grid import Grid, expected_seconds, run
from mads_ray.storage import write_json

# As pip would have it: there is no such module, so nobody can ask for it by name either.
BARE = """
import importlib.machinery, sys
class Bare(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in BANNED else super().find_spec(name, path, target)
BANNED = {"ray", "faiss", "typer", "matplotlib", "scipy", "pydantic", "numba", "sklearn", "gguf",
          "accelerate", "datasets", "vllm", "llvmlite", "ijson", "pandas", "psutil", "trl", "peft",
          "lm_eval"}
at = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[at] = Bare
from mads_ray.finetune.__main__ import main
assert main(["run", "--config", sys.argv[1], "--threads", "1"]) == 0
assert main(["table", "--config", sys.argv[1]]) == 0
assert not BANNED & sys.modules.keys(), BANNED & sys.modules.keys()
"""


@pytest.fixture
def config(tmp_path, shallow, rows, write_rows):
    """Two arms, one regime of two steps, two seeds: five cells."""
    pool = [{"instruction": f"Write {i}.", "output": f"Number {i}."} for i in range(12)] + rows[:4]
    sky = {"id": "q", "kind": "mc", "split": "test", "prompt": "Sky?", "answer": 0}
    write_rows("tasks/piqa.jsonl", [sky | {"choices": ["blue", "green"]}])
    return GridConfig(
        output=str(tmp_path / "out"),
        pool=(write_rows("pool.jsonl", pool),),
        held_out=(write_rows("held.jsonl", rows[4:]),),
        arms={
            "random": {0: write_rows("r0.jsonl", pool[:4]), 1: write_rows("r1.jsonl", pool[4:8])},
            "mads": write_rows("mads.jsonl", pool[12:]),
        },
        regimes=(Regime("short", steps=2),),
        models=(str(shallow),),
        seeds=(0, 1),
        training=Training(learning_rate=1e-3, examples_per_step=4, max_tokens=128),
        evaluation=Evaluation(folder=str(tmp_path / "tasks")),
    )


NAMES = [
    "shallow.untuned",
    *(f"shallow.{a}.short.s{s}" for s in (0, 1) for a in ("random", "mads")),
]
LAST = tuple(n for n in NAMES if n.endswith("s1"))


def files(config):
    return {f: f.stat().st_mtime_ns for f in Path(config.output).glob("cells/*.json")}


@pytest.fixture
def config_file(config, tmp_path):
    file = tmp_path / "grid.yaml"
    plain = dataclasses.asdict(config)
    plain = json.loads(json.dumps(plain | {"arms": None}))  # lists for tuples
    file.write_text(
        yaml.safe_dump(plain | {"arms": config.arms}, sort_keys=False), encoding="utf-8"
    )
    return str(file)


def test_an_interrupted_grid_goes_on(config):
    first = run(config, only="*.s1")
    assert (first.before, first.done, first.left) == ((), LAST, ())
    kept = files(config)
    assert len(kept) == 2
    second = run(config)
    assert (second.before, second.done, second.left) == (LAST, tuple(NAMES[:3]), ())
    after = files(config)
    assert {k: after[k] for k in kept} == kept
    third = run(config)
    assert (third.before, third.done, third.left) == (tuple(NAMES), (), ())
    assert files(config) == after

    grid = Grid(config)
    assert [c.name for c in grid.cells] == NAMES
    results = grid.results()
    by_name = {r["name"]: r for r in results.values()}
    untuned, tuned = by_name[NAMES[0]], by_name[NAMES[2]]
    assert untuned["tuned"] is None
    assert (tuned["tuned"]["steps"], tuned["tuned"]["examples"]) == (2, 4)
    assert set(tuned["held_out"]["tasks"]) == {"fact", "sum", "word"}
    assert tuned["held_out"]["per_token"] < untuned["held_out"]["per_token"]
    assert tuned["choices"]["tasks"]["piqa"]["n"] == 1

    other = max(r["seconds"] - r["tune_seconds"] for r in results.values())
    step = max(r["tune_seconds"] / 2 for r in results.values() if r["tuned"])
    told = expected_seconds(grid, grid.cells[-1], list(results.values()))
    assert told == pytest.approx(other + 2 * step)
    regimes = (*config.regimes, Regime("long", steps=10**7))
    with pytest.raises(ConfigError, match=r"long.s0 takes about .* fit into --minutes 9"):
        run(dataclasses.replace(config, regimes=regimes), minutes=9)

    rounded = results[grid.cells[0].id] | {"bf16": True}
    write_json(grid.cells[0].file(config.output), rounded)
    with pytest.raises(MismatchError, match="cells done in bfloat16"):
        run(config)


def test_it_stops_before_a_cell(config, config_file, capsys):
    assert main(["run", "--config", config_file, "--minutes", "0.00001"]) == 3
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "5 cells are left; run the same command again:"
    assert [line.strip() for line in out[1:6]] == NAMES
    assert json.loads(out[-1]) == {"before": 0, "done": 0, "left": 5}
    assert not files(config)


def test_on_a_bare_machine(config, config_file):
    told = subprocess.run(
        [sys.executable, "-c", BARE, config_file], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "no plot: matplotlib is not installed here" in told.stderr
    lines = told.stdout.splitlines()
    assert json.loads(lines[0]) == {"before": 0, "done": 5, "left": 0}
    last = {"cells": 5, "done": 5, "files": ["summary.json", "table.md"]}
    assert json.loads(lines[-1]) == last
    summary = json.loads((Path(config.output) / "summary.json").read_text(encoding="utf-8"))
    assert [x["arm"] for x in summary["lines"]] == ["untuned", "random", "mads"]
    assert summary["lines"][2]["differences"]["loss_per_token"]["n"] == 2


def test_an_id_is_what_a_cell_hangs_on(config, write_rows, rows):
    def ids(changed):
        return {c.name: c.id for c in Grid(changed).cells}

    before = ids(config)
    assert len(set(before.values())) == 5
    assert ids(dataclasses.replace(config, output="elsewhere")) == before
    faster = dataclasses.replace(config.training, learning_rate=2e-3)
    after = ids(dataclasses.replace(config, training=faster))
    assert [n for n in NAMES if after[n] == before[n]] == NAMES[:1]
    held_out = dataclasses.replace(config, held_out=(write_rows("other.jsonl", rows[5:]),))
    assert not set(ids(held_out).values()) & set(before.values())
    arms = config.arms | {"mads": write_rows("fewer.jsonl", rows[:3])}
    after = ids(dataclasses.replace(config, arms=arms))
    assert [n for n in NAMES if after[n] != before[n]] == [n for n in NAMES if "mads" in n]


def test_ids_stay_what_they_were():
    """Cells that are stored are not done again by a later version."""
    row = SimpleNamespace(uid="a" * 32, label="x")
    corpora = SimpleNamespace(held_out=[row], arms={("mads", 0): [row]})
    config = GridConfig("o", ("p",), ("h",), {"mads": "f"}, (Regime("r", steps=1),), seeds=(0,))
    ids = [c.id for c in cells_of(config, corpora, {SMOLLM2: "rev"}, "questions")]
    assert ids == ["fe99a060c651", "db43a37d5aee"]


def test_uids_name_rows_of_the_pool(config, tmp_path):
    uids = [r.uid for r in Grid(config).corpora.arms["mads", 0]]
    file = tmp_path / "mads.txt"
    file.write_text("\n".join(uids), encoding="utf-8")
    named = dataclasses.replace(config, arms={"mads": str(file), "full": None})
    arms = Grid(named).corpora.arms
    assert [r.uid for r in arms["mads", 1]] == uids
    assert len(arms["full", 0]) == 16
    file.write_text("f" * 32, encoding="utf-8")
    with pytest.raises(ConfigError, match="1 uids are not in the pool"):
        Grid(named)


def test_what_cannot_be_compared_is_refused(config, config_file, capsys):
    leaky = dataclasses.replace(config, arms={"mads": config.held_out[0]})
    with pytest.raises(ConfigError, match=r"arms.mads: 4 held-out rows are in it"):
        Grid(leaky)
    twice = dataclasses.replace(config, models=(*config.models, config.models[0] + "/"))
    with pytest.raises(ConfigError, match="two of them are the same"):
        Grid(twice)
    assert main(["run", "--config", config_file, "--only", "x"]) == 2
    told = capsys.readouterr().err
    assert "--only x: no cell has such a name, e.g. shallow.mads.short.s1" in told
