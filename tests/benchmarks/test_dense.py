"""Activations kept in full are those that the package's engine pools."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mads_ray.capture.architectures import find_down_projections
from mads_ray.capture.engines.engine import EngineOptions
from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.corpus.conversation import Conversation, Message

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from ablation import State, layers_of, neurons_of
from dense import SPANS, WAYS, Dense, collect

TALKS = (
    (Message("user", "Name three colours."), Message("assistant", "Red, green, blue.")),
    (Message("user", "Say hello in French, then in German."), Message("assistant", "Bonjour!")),
)


@pytest.fixture(scope="module")
def spanned(smollm2):
    model, tokenizer, _ = smollm2
    spans = {s: PromptRenderer(tokenizer, 128, s) for s in (*SPANS, "last")}
    own = copy.deepcopy(model)  # engines leave their hooks
    return own, [[render(Conversation(talk)) for render in spans.values()] for talk in TALKS]


def test_every_way_of_pooling_is_the_engines(spanned):
    model, examples = spanned
    modules = find_down_projections(model)
    width = modules[0].in_features
    acts = {way: np.zeros((2, len(modules) * width), np.float32) for way in WAYS}
    collect(model, modules, examples, acts)
    engines = {p: TransformersEngine(model, EngineOptions(pooling=p)) for p in ("max", "mean")}
    for (span, pooling), found in acts.items():
        at = (*SPANS, "last").index(span)
        alone = [engines[pooling].pool([spans[at]]).acts_BLF for spans in examples]
        expected = torch.cat(alone).flatten(1).numpy()
        # One batch here, single rows there: the last bits of a float32 sum.
        np.testing.assert_allclose(
            found, expected, rtol=0.02, atol=2e-3, err_msg=f"{span} {pooling}"
        )


def test_states_are_those_of_a_calibrated_top_k():
    rng = np.random.default_rng(0)
    acts_NLF = rng.gamma(2, 1, (40, 6, 32)).astype(np.float32) * rng.gamma(1, 5, (1, 6, 32))
    acts_NLF = acts_NLF.astype(np.float32)
    dense = Dense([], np.array([]), np.array([]), 6, 32, {("all", "max"): acts_NLF.reshape(40, -1)})
    kept = layers_of("middle third", 6)
    assert kept == [2, 3]
    state = State(per_layer=4)
    z_NLF = (acts_NLF - acts_NLF.mean(0)) / acts_NLF.std(0)
    expected = np.sort(np.argsort(-z_NLF[:, kept], axis=2)[:, :, :4], axis=2).reshape(40, -1)
    assert np.mean(neurons_of(dense, state, kept) == expected) > 0.99  # a floor under std
    raw = neurons_of(dense, State(per_layer=4, standardise="no"), kept)
    expected = np.sort(np.argsort(-acts_NLF[:, kept], axis=2)[:, :, :4], axis=2).reshape(40, -1)
    np.testing.assert_array_equal(raw, expected)
