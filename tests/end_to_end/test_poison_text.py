"""A row that kills every process that renders it, through a whole run of the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
WORD = "lethalword"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_ends_in_quarantine_and_the_run_ends_well(small_corpus, tiny_model, tmp_path):
    """Also from calibration, which has all of the rows here."""
    rows = (small_corpus / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    rows.insert(7, json.dumps({"instruction": f"Say {WORD}.", "output": "No."}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    settings = ["capture.calibration_rows=40", "capture.max_tokens=256", "ray.workers=1"]
    settings += [f"capture.model={tiny_model}", "ray.selection_workers=1"]
    words = ["run", "--input", tmp_path / "rows.jsonl", "--output", tmp_path / "out"]
    words += [word for setting in settings for word in ("--set", setting)]
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'cluster' / 'poison'}"
    poisoned = {**os.environ, "PYTHONPATH": path, "MADS_RAY_TEST_POISON_TEXT": WORD}
    command = [sys.executable, "-m", "mads_ray", *map(str, words)]
    done = subprocess.run(command, env=poisoned, capture_output=True, text=True, timeout=1150)
    assert done.returncode == 0, done.stderr
    (part,) = (tmp_path / "out" / "quarantine").glob("part-capture-*.parquet")
    (row,) = pq.read_table(part).to_pylist()
    assert (row["source_row"], row["reason"]) == (7, "ends_the_process")
    assert "while they rendered and tokenised this row" in row["message"]
    assert WORD in row["raw"]
    counts = json.loads((tmp_path / "out" / "run.json").read_text())["counts"]
    assert counts["read"] == counts["quarantined"] + counts["duplicates"] + counts["examples"]
