"""`capture.compile` through the whole pipeline, on a tiny model."""

import torch
from transformers import LlamaConfig, LlamaModel
from typer.testing import CliRunner

from mads_ray.cli import app
from mads_ray.states import StatesManifest


def test_compiled_states_do_not_mix_with_eager_ones(ray_local, smollm2, small_corpus, tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=49_152,
        dtype=torch.float32,
    )
    LlamaModel(config).save_pretrained(tmp_path / "model")
    smollm2[1].save_pretrained(tmp_path / "model")
    flags = ["--input", str(small_corpus / "alpaca.jsonl"), "--output", str(tmp_path / "run")]
    flags += ["--model", str(tmp_path / "model"), "--size", "8", "--workers", "1"]
    flags += ["--set", "capture.neurons_per_layer=16"]
    told = CliRunner().invoke(app, ["run", *flags, "--set", "capture.compile=true"])
    assert told.exit_code == 0, told.output
    manifest = StatesManifest.load(tmp_path / "run/states/manifest.json")
    assert manifest.requested["compile"]
    told = CliRunner().invoke(app, ["run", *flags])
    assert told.exit_code == 2
    assert "compile: stored True, wanted False" in told.output
