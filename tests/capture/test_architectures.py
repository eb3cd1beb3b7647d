"""Every family of the table, on tiny randomly initialised models of the real classes."""

import numpy as np
import pytest
import torch
import transformers as tf

from mads_ray.capture.architectures import find_down_projections
from mads_ray.capture.engines.engine import EngineOptions
from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.errors import ModelError

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
NEOX = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
CONFIGS = {
    "llama": tf.LlamaConfig(**SMALL),
    "qwen2": tf.Qwen2Config(**SMALL),
    "qwen3": tf.Qwen3Config(**SMALL, head_dim=8),
    "mistral": tf.MistralConfig(**SMALL),
    "gemma2": tf.Gemma2Config(**SMALL, head_dim=8),
    "gemma3": tf.Gemma3TextConfig(**SMALL, head_dim=8),
    "gemma3_multimodal": tf.Gemma3Config(
        text_config={**SMALL, "head_dim": 8},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    ),
    "phi": tf.PhiConfig(**SMALL),
    "phi3": tf.Phi3Config(**SMALL, pad_token_id=0),
    "gpt2": tf.GPT2Config(vocab_size=97, n_embd=32, n_inner=48, n_layer=3, n_head=4),
    "opt": tf.OPTConfig(
        vocab_size=97,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    "gpt_neox": tf.GPTNeoXConfig(**NEOX),
}


def tiny(name):
    torch.manual_seed(0)
    return tf.AutoModel.from_config(CONFIGS[name]).eval()


def example(length, seed=0):
    ids = np.random.default_rng(seed).integers(1, 97, length).astype(np.int32)
    own = np.ones(length, np.bool_)
    own[:2] = False
    return TokenisedExample(ids, own, 0)


BERT = tf.BertConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    initializer_range=0.5,  # so that what a token sees makes a difference
)
MPT = tf.MptConfig(vocab_size=97, d_model=32, n_heads=4, n_layers=3, max_seq_len=64)


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("name", CONFIGS)
def test_pooled_is_the_down_projections_input_over_own_tokens(name, pooling):
    model = tiny(name)
    engine = TransformersEngine(model, EngineOptions(pooling))
    assert (engine.layers, engine.width) == (3, 48)
    rows = [example(9, 1), example(17, 2), example(5, 3)]
    pooled = engine.pool(rows)
    for i, row in enumerate(rows):
        seen = []
        handles = [
            m.register_forward_hook(lambda _m, a, _o, seen=seen: seen.append(a[0].clone()))
            for m in find_down_projections(model)
        ]
        with torch.inference_mode():
            out = model(input_ids=torch.tensor(row.ids_T[None].astype(np.int64)))
        for handle in handles:
            handle.remove()
        own = torch.from_numpy(row.own_T)
        acts = torch.stack([x.reshape(-1, 48)[own].abs() for x in seen])
        expected = acts.amax(1) if pooling == "max" else acts.mean(1)
        torch.testing.assert_close(pooled.acts_BLF[i], expected, rtol=1e-4, atol=1e-6)
        hidden = out.last_hidden_state[0][own].mean(0)
        torch.testing.assert_close(pooled.hidden_BH[i], hidden, rtol=1e-4, atol=1e-5)


def test_a_mixture_of_experts_is_refused_with_its_reason():
    config = tf.MixtralConfig(**SMALL, num_local_experts=4)
    with torch.device("meta"):
        model = tf.AutoModel.from_config(config)
    with pytest.raises(ModelError, match="mixture of experts"):
        find_down_projections(model)


def test_an_encoder_decoder_is_refused():
    """Its encoder looks to the right, so that features would depend on padding."""
    config = tf.BartConfig(
        vocab_size=97,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
    )
    with torch.device("meta"):
        model = tf.AutoModel.from_config(config)
    with pytest.raises(ModelError, match="encoder-decoder"):
        find_down_projections(model)


def test_an_unknown_architecture_names_what_it_found():
    with pytest.raises(ModelError, match="no known feed-forward output") as e:
        find_down_projections(tf.AutoModel.from_config(BERT))
    assert "mlp.down_proj" in str(e.value)


def test_a_module_can_be_named():
    """For families that the table does not know, as the error says."""
    torch.manual_seed(0)
    model = tf.AutoModel.from_config(MPT).eval()
    with pytest.raises(ModelError, match=r"hold: .*ffn\.down_proj.*--hook-module"):
        find_down_projections(model)
    for name in ("blocks.*.ffn.down_proj", "*.ffn.down_proj"):
        found = find_down_projections(model, name)
        assert found == [block.ffn.down_proj for block in model.blocks]
    engine = TransformersEngine(model, EngineOptions(hook_module="blocks.*.ffn.down_proj"))
    assert (engine.layers, engine.width) == (3, 4 * 32)
    assert engine.pool([example(9)]).acts_BLF.shape == (1, 3, 128)


def test_a_name_that_fits_nothing_tells_what_there_is():
    with pytest.raises(ModelError, match=r"no such module\. It has: .*layers\.\*\.mlp\.down_proj"):
        find_down_projections(tiny("llama"), "layers.*.mlp.down")


def test_a_module_that_is_no_linear_layer():
    with pytest.raises(ModelError, match="is no linear layer"):
        TransformersEngine(tiny("llama"), EngineOptions(hook_module="layers.*.input_layernorm"))


def test_a_module_that_not_every_layer_has():
    model = tiny("llama")
    model.layers[0].mlp.down_proj = torch.nn.Identity()
    model.layers[0].mlp.other = torch.nn.Linear(48, 32)
    with pytest.raises(ModelError, match=r"in 1 of 3 layers, not in \[1, 2\]"):
        find_down_projections(model, "layers.*.mlp.other")


def test_a_module_that_does_not_run_is_no_layer_of_the_text():
    model = tiny("llama")
    for layer in model.layers:
        layer.unused = torch.nn.Linear(48, 32)
    with pytest.raises(ModelError, match="0 of 3 hooked modules ran"):
        TransformersEngine(model, EngineOptions(hook_module="layers.*.unused"))


def test_a_name_that_fits_twice():
    model = tiny("llama")
    model.second = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Module()])})
    model.second["layers"][0].mlp = torch.nn.ModuleDict({"down_proj": torch.nn.Linear(48, 32)})
    with pytest.raises(ModelError, match=r"both layers\.0\.mlp\.down_proj and second\.layers"):
        find_down_projections(model, "layers.*.mlp.down_proj")


def test_a_named_module_of_an_encoder_is_refused():
    """Its tokens see padding to their right."""
    torch.manual_seed(0)
    model = tf.AutoModel.from_config(BERT).eval()
    with pytest.raises(ModelError, match="tokens see others to their right"):
        TransformersEngine(model, EngineOptions(hook_module="encoder.layer.*.output.dense"))


def test_layers_of_different_widths_are_refused():
    model = tiny("llama")
    model.layers[1].mlp.down_proj = torch.nn.Linear(40, 32)
    with pytest.raises(ModelError, match=r"different widths .* \[40, 48\]"):
        TransformersEngine(model)
