"""The real model: pooled activations against a one-by-one reference, whatever the batch."""

import numpy as np
import pytest
import torch
from feedforward import overlap, slow_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.model import load_model
from mads_ray.capture.prompts.examples import TokenisedExample


@pytest.fixture(scope="module")
def examples(renderer, sample_rows):
    chosen = [renderer(turns) for turns in sample_rows[::9]]
    return [e for e in chosen if len(e.ids_T) < 220][:24]


@pytest.fixture(scope="module")
def alone(smollm2, examples):
    return torch.stack([slow_reference(smollm2[0], e) for e in examples])


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_features_do_not_depend_on_batch_mates_order_or_padding(engine, examples, alone, data):
    order = data.draw(st.permutations(range(len(examples))))
    size = data.draw(st.integers(1, 6))
    batch = list(order[:size])
    pooled = engine.pool([examples[i] for i in batch])
    torch.testing.assert_close(pooled.acts_BLF, alone[batch], rtol=2e-3, atol=2e-4)
    assert overlap(pooled.acts_BLF, alone[batch]) >= 0.999


def test_extra_padding_changes_nothing(engine, examples, alone):
    longest = max(examples, key=lambda e: len(e.ids_T))
    pooled = engine.pool([examples[0], longest])
    torch.testing.assert_close(pooled.acts_BLF[0], alone[0], rtol=2e-3, atol=2e-4)


def test_tokens_that_are_not_its_own_leave_no_trace(engine, examples):
    """Of two own tokens, the pooled peak is the larger of what each gives alone."""
    e = examples[1]
    own = np.flatnonzero(e.own_T)[[0, -1]]
    masks = [np.isin(np.arange(len(e.ids_T)), chosen) for chosen in (own, own[:1], own[1:])]
    both, first, last = (engine.pool([TokenisedExample(e.ids_T, m, 0)]).acts_BLF[0] for m in masks)
    torch.testing.assert_close(both, torch.maximum(first, last), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(first, last)


def test_the_engine_is_idle_between_batches(smollm2, engine):
    """Hooks stay on the model; a forward pass of somebody else must not disturb or crash them."""
    with torch.inference_mode():
        smollm2[0](input_ids=torch.tensor([[1, 2, 3]]))
    assert engine._acts_BLF is None


def test_bfloat16_finds_the_strongest_neurons_of_float32(examples, alone):
    """The precision of GPUs, whatever this machine's default is."""
    model, _, _ = load_model("smollm2-135m", None, "bfloat16")
    pooled = TransformersEngine(model).pool(examples)
    assert pooled.acts_BLF.dtype == torch.float32
    assert 0.97 <= overlap(pooled.acts_BLF, alone) < 1
