"""Real vLLM, in its own environment: `make test-vllm`. Elsewhere nothing here is collected."""

import importlib.util
import os

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

# vLLM's build for CPUs: a small cache, and threads that several workers can share.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("OMP_NUM_THREADS", "1")


SMALL = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 49_152,
    "max_position_embeddings": 512,
}
OWN_NAMES = {
    "GPT2Config": {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_inner": 320, "n_positions": 512},
    "OPTConfig": {"ffn_dim": 320, "word_embed_proj_dim": 128},
}


@pytest.fixture
def open_engine(monkeypatch):
    """Open a VllmEngine; `vllm_options` go to vLLM on top of those that the engine gives it."""

    import vllm
    from vllm.distributed import cleanup_dist_env_and_memory

    from mads_ray.capture.engines import open_engine
    from mads_ray.capture.engines.engine import EngineOptions
    from mads_ray.capture.model import Located, ModelIdentity

    opened = []

    def open_(source, dtype="float32", vllm_options=None, **options):
        if vllm_options:
            original = vllm.LLM
            monkeypatch.setattr(vllm, "LLM", lambda **given: original(**(given | vllm_options)))
        located = Located(str(source), None, ModelIdentity(str(source), "", dtype))
        opened.append(open_engine("vllm", located, EngineOptions(**options)))
        return opened[-1]

    yield open_
    opened.clear()
    cleanup_dist_env_and_memory()


@pytest.fixture(scope="session")
def checkpoint(smollm2):
    """Folder of the real default model."""
    from mads_ray.capture.model import locate

    return locate("smollm2-135m", None, "float32").source


@pytest.fixture(scope="session")
def examples(renderer, sample_rows):
    """32 rows of 20 to 240 tokens."""
    found = [renderer(turns) for turns in sample_rows[::7]]
    return [e for e in found if len(e.ids_T) < 240][:32]


@pytest.fixture
def random_checkpoint(tmp_path, smollm2):
    """(folder, the same model in transformers), with the tokenizer of the default model."""

    import torch
    import transformers

    def make(name, **changes):
        torch.manual_seed(0)
        config = getattr(transformers, name)(**(SMALL | OWN_NAMES.get(name, {}) | changes))
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.save_pretrained(tmp_path / name)
        smollm2[1].save_pretrained(tmp_path / name)
        return tmp_path / name, model.base_model.eval()

    return make
