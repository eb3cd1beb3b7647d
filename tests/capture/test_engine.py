"""The real model: pooled activations against a one-by-one reference, whatever the batch."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mads_ray.capture.prompts import TokenisedExample
from mads_ray.capture.state import top_k


@pytest.fixture(scope="module")
def examples(renderer, sample_rows):
    chosen = [renderer(turns) for turns in sample_rows[::9]]
    return [e for e in chosen if len(e.ids_T) < 220][:24]


def slow_reference(model, example):
    """act(gate(x)) * up(x) of every layer from the block's own weights, one example, no hooks on
    the down projection and no padding."""
    inputs = []
    handles = [
        layer.mlp.register_forward_hook(lambda _m, a, _o: inputs.append(a[0]))
        for layer in model.layers
    ]
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(example.ids_T[None].astype(np.int64)))
        peaks = [
            (layer.mlp.act_fn(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x))[0][
                torch.from_numpy(example.own_T)
            ]
            .abs()
            .amax(0)
            for layer, x in zip(model.layers, inputs, strict=True)
        ]
    for handle in handles:
        handle.remove()
    return torch.stack(peaks)


@pytest.fixture(scope="module")
def alone(smollm2, examples):
    return torch.stack([slow_reference(smollm2[0], e) for e in examples])


def overlap(a, b, k=64):
    mean, scale = torch.zeros(a.shape[1:]), torch.ones(a.shape[1:])
    x, y = top_k(a, mean, scale, k), top_k(b, mean, scale, k)
    same = [
        len(np.intersect1d(p, q))
        for p, q in zip(x.reshape(-1, k).numpy(), y.reshape(-1, k).numpy(), strict=True)
    ]
    return sum(same) / (len(same) * k)


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
