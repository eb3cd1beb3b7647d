"""Features of the vLLM engine are those of the transformers engine, row by row, in float32."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rows import K, one_by_one, overlap, pooled, run

from mads_ray.capture.calibration import fit_calibration
from mads_ray.capture.engines.engine import PooledRows, RunStats, StateRows
from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import StateReducer
from mads_ray.errors import ModelError


@pytest.fixture(scope="module")
def alone(smollm2, examples):
    return {pooling: one_by_one(smollm2[0], examples, pooling) for pooling in ("max", "mean")}


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_chunks_and_batch_mates_leave_no_trace(
    open_engine, checkpoint, smollm2, examples, alone, pooling
):
    engine = open_engine(checkpoint, pooling=pooling, token_budget=128)
    assert (engine.layers, engine.width, engine.hidden_size) == (30, 1536, 576)
    acts, hidden = pooled(engine, examples)
    expected_acts, expected_hidden = alone[pooling]
    np.testing.assert_allclose(acts, expected_acts, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(hidden, expected_hidden, rtol=2e-3, atol=2e-3)
    assert overlap(acts, expected_acts) >= 0.999
    (schedule,) = engine._llm.collective_rpc("capture_schedule")
    assert schedule["requests"] >= 3
    assert schedule["tokens"] == 128
    assert schedule["chunks"] >= 10

    # Of whatever tokens a row calls its own.
    last = [
        TokenisedExample(e.ids_T, np.arange(len(e.ids_T)) == len(e.ids_T) - 1, 0)
        for e in examples[:6]
    ]
    acts_last, _ = pooled(engine, last)
    expected_last, _ = one_by_one(smollm2[0], last, pooling)
    np.testing.assert_allclose(acts_last, expected_last, rtol=2e-3, atol=2e-4)


def test_states_are_those_of_the_transformers_engine(
    open_engine, checkpoint, smollm2, examples, tmp_path
):
    reference = TransformersEngine(smollm2[0])
    each = [reference.pool([e]) for e in examples]
    calibration = fit_calibration([torch.cat([p.acts_BLF for p in each]).numpy()], K, 16)
    calibration.save(tmp_path / "calibration.npz")
    reducer = StateReducer(calibration, torch.device("cpu"), 576, store_raw=True)
    expected = reducer.unpack(torch.cat([reducer.pack(p) for p in each]).numpy())
    engine = open_engine(checkpoint, token_budget=256)
    for _ in range(2):
        states = StateRows(reducer, tmp_path / "calibration.npz")
        found = reducer.unpack(run(engine, examples, states))
        assert (found["neurons"] == expected["neurons"]).mean() > 0.99
        for name, close in (("sketch", 0.02), ("hidden", 0.02)):
            np.testing.assert_allclose(
                found[name].astype(float), expected[name].astype(float), atol=close
            )
        assert (found["raw_neurons"] == expected["raw_neurons"]).mean() > 0.99
        assert run(engine, examples[:2]).dtype == np.float32


def test_bfloat16_is_as_near_as_bfloat16_can_be(open_engine, checkpoint, examples, alone):
    acts, _ = pooled(open_engine(checkpoint, dtype="bfloat16"), examples)
    assert overlap(acts, alone["max"][0]) >= 0.97


def test_a_request_that_is_pushed_out_starts_over(open_engine, checkpoint, examples, alone):
    """With a cache for few prompts vLLM preempts and computes again from the first token."""
    engine = open_engine(
        checkpoint,
        max_tokens=256,
        token_budget=64,
        vllm_options={
            "num_gpu_blocks_override": 4,
            "long_prefill_token_threshold": 16,  # several prompts advance side by side
            "scheduler_reserve_full_isl": False,
        },
    )
    acts, _ = pooled(engine, examples)
    np.testing.assert_allclose(acts, alone["max"][0], rtol=2e-3, atol=2e-4)
    (schedule,) = engine._llm.collective_rpc("capture_schedule")
    assert schedule["restarts"] > 0


def test_rows_that_the_model_has_no_place_for_cost_themselves_only(
    open_engine, checkpoint, examples
):
    engine = open_engine(checkpoint, max_tokens=256)
    engine.run([{}], PooledRows(), RunStats(), lambda *_: pytest.fail("no rows"))
    strange = replace(examples[0], ids_T=np.full(len(examples[0].ids_T), 49_152, np.int32))
    endless = replace(examples[0], ids_T=np.ones(257, np.int32), own_T=np.ones(257, np.bool_))
    stats, rows = RunStats(), []
    given = {4: examples[1], 5: strange, 6: endless, 7: examples[2]}
    engine.run([given], PooledRows(), stats, lambda numbers, _packed: rows.extend(numbers))
    assert rows == [4, 7]
    assert "outside the model's vocabulary of 49152" in str(stats.failures[5])
    assert "257 tokens are more than the model's 256" in str(stats.failures[6])
    assert stats.tokens == len(examples[1].ids_T) + len(examples[2].ids_T)


def test_a_cached_prefix_is_an_error_not_a_feature(open_engine, checkpoint, examples):
    engine = open_engine(checkpoint, vllm_options={"enable_prefix_caching": True})
    long = max(examples, key=lambda e: len(e.ids_T))
    run(engine, [long])
    with pytest.raises(ModelError, match="computed elsewhere: a cached prefix"):
        run(engine, [long])


def test_a_forward_pass_without_hooks_is_an_error(open_engine, checkpoint, examples):
    """As compiled or replayed graphs would be."""
    engine = open_engine(checkpoint)
    engine._llm.apply_model(_unhook_one_layer)
    with pytest.raises(ModelError, match="hooks fired in 29 of 30 layers"):
        run(engine, examples[:1])


def _unhook_one_layer(model):
    model.model.layers[7].mlp.down_proj._forward_pre_hooks.clear()
