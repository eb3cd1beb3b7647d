"""`capture.compile` through the whole pipeline, on a tiny model."""

from typer.testing import CliRunner

from mads_ray.cli import app
from mads_ray.states import StatesManifest


def test_compiled_states_do_not_mix_with_eager_ones(in_process, tiny_model, small_corpus, tmp_path):
    flags = ["--input", str(small_corpus / "alpaca.jsonl"), "--output", str(tmp_path / "run")]
    flags += ["--model", str(tiny_model), "--size", "8", "--workers", "1"]
    flags += ["--set", "capture.neurons_per_layer=16"]
    told = CliRunner().invoke(app, ["run", *flags, "--set", "capture.compile=true"])
    assert told.exit_code == 0, told.output
    manifest = StatesManifest.load(tmp_path / "run/states/manifest.json")
    assert manifest.requested["compile"]
    told = CliRunner().invoke(app, ["run", *flags])
    assert told.exit_code == 2
    assert "compile: stored True, wanted False" in told.output
