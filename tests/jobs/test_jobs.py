"""The entry points of `ray job submit`, and their example configurations."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mads_ray
from mads_ray.config import load_config

JOBS = Path(__file__).parents[2] / "jobs"
EXAMPLES = sorted(set(JOBS.glob("*.yaml")) - {JOBS / "finetune_grid.yaml"})


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_a_configuration(file):
    config = load_config(str(file), {})
    assert config.output
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert set(given) <= set(type(config).model_fields)
    if config.ray.elastic:
        assert config.ray.gpus_per_worker == 1
    assert "mads-ray run" in file.read_text() or "ray job submit" in file.read_text()


def test_no_entry_point_hides_a_module_of_python():
    """Python, and Ray in its workers, put jobs/ first on the path."""
    names = {p.stem for p in JOBS.glob("*.py")}
    assert names >= {"pipeline", "capture", "select_core_set", "throughput"}
    assert not names & set(sys.stdlib_module_names)


def test_the_version_is_in_the_package_itself():
    """A cluster may have the package in the job's working_dir only, without its metadata."""
    assert mads_ray.__version__ == importlib.metadata.version("mads_ray")


def test_there_is_one_for_each_kind_of_cluster():
    assert [p.stem for p in EXAMPLES] == ["gpu_node", "laptop", "spot_cluster", "web_scale"]


@pytest.mark.parametrize(
    ("job", "flag"),
    [
        ("pipeline", "--overwrite"),
        ("capture", "--calibration-from"),
        ("select_core_set", "--states"),
        ("throughput", "--random-weights"),
    ],
)
def test_an_entry_point_is_its_command(job, flag, tmp_path):
    """From another folder: Python puts jobs/ first on its path."""
    run = subprocess.run(
        [sys.executable, JOBS / f"{job}.py", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert flag in run.stdout


@pytest.mark.parametrize("job", ["pipeline", "capture", "select_core_set"])
def test_a_job_that_cannot_run_has_an_exit_code_and_one_line(job, tmp_path):
    missing = tmp_path / "absent.yaml"
    run = subprocess.run(
        [sys.executable, JOBS / f"{job}.py", "--config", missing],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.startswith(f"error: cannot read the configuration {missing}")
    assert len(run.stderr.splitlines()) == 1
