"""The entry point of the fine-tuning bench, and its example."""

import os
import subprocess
import sys
from pathlib import Path

from mads_ray.finetune.config import load_grid

JOBS = Path(__file__).parents[2] / "jobs"


def test_the_example_is_the_full_grid():
    config = load_grid(str(JOBS / "finetune_grid.yaml"))
    assert len(config.models) == 2
    assert len(config.seeds) >= 3
    assert [(r.steps, r.epochs) for r in config.regimes] == [(200, None), (None, 3)]
    assert {config.reference_of(a) for a in config.arms} == {None, "random-5", "random-15"}
    assert config.file_of("full", 0) is None
    assert config.file_of("random-5", 0) != config.file_of("random-5", 1)


def test_the_entry_point_from_another_folder(tmp_path):
    """Python puts jobs/ first on its path."""
    told = subprocess.run(
        [sys.executable, JOBS / "finetune_eval.py", "run", "--config", "absent.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert told.returncode == 2
    assert told.stderr.startswith("error: cannot read the configuration absent.yaml")
