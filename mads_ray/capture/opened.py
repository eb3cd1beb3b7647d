"""A model that is open for capture: engine, prompt renderer, and what identifies them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mads_ray.capture.engines import open_engine
from mads_ray.capture.engines.engine import Engine, EngineOptions
from mads_ray.capture.model import load_tokenizer, locate, most_positions
from mads_ray.capture.prompts.clock import DATE
from mads_ray.capture.prompts.examples import PromptRenderer, Tokens


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model to open, and how.

    `model`: hub name, local folder, or smollm2-135m. `revision`: of a hub model. `dtype`: also
    "auto". `engine`: a name in `ENGINES`. `tokens`: whose activations count.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    engine: str = "transformers"
    tokens: Tokens = "all"
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """An engine with its model, ready to run what `renderer` renders.

    `facts`: what all states of one folder must have in common, by the manifest's names; and
    `hidden_size`.
    """

    engine: Engine
    renderer: PromptRenderer
    facts: dict[str, Any]


def open_renderer(settings: ModelSettings) -> PromptRenderer:
    """The renderer of a model that `open_model` would open, without the model."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    located = locate(settings.model, settings.revision, settings.dtype)
    longest = most_positions(located, settings.options.max_tokens)
    return PromptRenderer(load_tokenizer(located), longest, settings.tokens)


def open_model(settings: ModelSettings, threads: int) -> OpenedModel:
    """Load a model to compute with `threads` threads on the CPU.

    Raises ConfigError for an unknown engine, and ModelError where the model cannot be found, loaded
    or hooked.
    """
    # A fixed thread count: the number of workers must not change a matrix product's last bits.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    located = locate(settings.model, settings.revision, settings.dtype)
    longest = most_positions(located, settings.options.max_tokens)
    engine = open_engine(settings.engine, located, replace(settings.options, max_tokens=longest))
    renderer = PromptRenderer(load_tokenizer(located), longest, settings.tokens)
    facts = {
        "engine": settings.engine,
        "model": located.identity.name,
        "revision": located.identity.revision,
        "dtype": located.identity.dtype,
        "layers": engine.layers,
        "width": engine.width,
        "hidden_size": engine.hidden_size,
        "template": renderer.digest,
        "date": DATE,
    }
    return OpenedModel(engine, renderer, facts)
