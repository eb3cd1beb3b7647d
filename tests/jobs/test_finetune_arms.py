"""The small fine-tuning bench, whole: a hold-out, core sets, fine-tunes, a table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mads_ray.finetune.cells import read_corpora
from mads_ray.finetune.config import load_grid

REPO = Path(__file__).parents[2]
SAMPLE = REPO / "mads_ray/sample_corpus"


def told(*command, cwd):
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Forty-eight rows of the sample corpus."""
    lines = [x for f in sorted(SAMPLE.glob("*.jsonl")) for x in f.open(encoding="utf-8")][:48]
    file = tmp_path_factory.mktemp("arms") / "rows.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.mark.slow
def test_from_one_file_to_a_table(corpus, tiny_model):
    work = corpus.parent
    arms = [REPO / "jobs/finetune_arms.py", "--pool", "rows.jsonl", "-o", "out"]
    arms += ["--budgets", "0.25", "--methods", "mads", "random", "--seeds", "2", "--no-full"]
    arms += ["--max-tokens", "96", "--steps", "1", "--epochs", "0", "--share", "0.2"]
    arms += ["--model", tiny_model, "--tune", "smollm2-135m"]
    first = told(*arms, "--label-field", "task", cwd=work)
    assert first.returncode == 0, first.stderr
    grid = json.loads(first.stdout.splitlines()[-1])["grid"]
    rows = read_corpora(load_grid(grid))
    uids = {arm: {r.uid for r in found} for arm, found in rows.arms.items()}
    assert {len(u) for u in uids.values()} == {(48 - len(rows.held_out)) // 4}
    assert uids["random-25", 0] != uids["random-25", 1]
    assert uids["mads-25", 0] not in (uids["random-25", 0], uids["mads-25", 1])

    evaluate = [REPO / "jobs/finetune_eval.py"]
    ran = told(*evaluate, "run", "--config", grid, "--threads", "1", "--only", "*.s0", cwd=work)
    counts = json.loads(ran.stdout.splitlines()[-1])
    assert counts == {"before": 0, "done": 2, "left": 0}, ran.stderr
    table = told(*evaluate, "table", "--config", grid, cwd=work)
    assert table.returncode == 0, table.stderr
    lines = json.loads((work / "out/grid/summary.json").read_text())["lines"]
    assert [(x["arm"], x["steps"], x["reference"]) for x in lines] == [
        ("mads-25", 1, "random-25"),
        ("random-25", 1, None),
    ]
    assert all(0.5 < x["measures"]["loss_per_token"]["mean"] < 6 for x in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--held-out", "rows.jsonl"], "of its rows are in the pool too"),
        (["--budgets", "5"], "between 0 and 1"),
        (["--steps", "0", "--epochs", "0"], "regimes: name at least one"),
        (["--steps", "-1"], "above 0"),
    ],
)
def test_what_cannot_be_compared_is_said_before_the_work(corpus, options, message):
    job = [REPO / "jobs/finetune_arms.py", "--pool", "rows.jsonl", "-o", "bad", *options]
    found = told(*job, cwd=corpus.parent)
    assert found.returncode == 2
    assert message in found.stderr
    assert not (corpus.parent / "bad").exists()
