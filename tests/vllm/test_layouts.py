"""Other architectures, and models that lie on two devices, on checkpoints with random weights."""

import numpy as np
import pytest
import torch
from rows import one_by_one, pooled, run

from mads_ray.capture.calibration import fit_calibration
from mads_ray.capture.engines.engine import StateRows
from mads_ray.capture.reducer import Pooled, StateReducer
from mads_ray.errors import ModelError


@pytest.mark.parametrize(
    "name",
    ["Qwen3Config", "Gemma3TextConfig", "Phi3Config", "PhiConfig", "GPT2Config", "OPTConfig"],
)
def test_architectures_give_the_features_of_transformers(
    open_engine, random_checkpoint, examples, name
):
    folder, model = random_checkpoint(name)
    # First: where vLLM runs the very class of transformers, it patches it for the whole process.
    expected_acts, expected_hidden = one_by_one(model, examples[:12])
    acts, hidden = pooled(open_engine(folder, max_tokens=512, token_budget=128), examples[:12])
    np.testing.assert_allclose(acts, expected_acts, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(hidden, expected_hidden, rtol=2e-3, atol=1e-3)


def test_two_ranks_hold_half_of_the_neurons_each(
    open_engine, random_checkpoint, examples, tmp_path
):
    folder, model = random_checkpoint("LlamaConfig")
    expected_acts, expected_hidden = one_by_one(model, examples)
    fit_calibration([expected_acts], 16, 8).save(tmp_path / "calibration.npz")
    engine = open_engine(folder, max_tokens=512, token_budget=128, tensor_parallel=2)
    assert (engine.layers, engine.width) == (3, 320)
    acts, hidden = pooled(engine, examples)
    np.testing.assert_allclose(acts, expected_acts, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(hidden, expected_hidden, rtol=2e-3, atol=1e-3)

    reducer = StateReducer(fit_calibration([expected_acts], 16, 8), torch.device("cpu"))
    rows = run(engine, examples, StateRows(reducer, tmp_path / "calibration.npz"))
    states = reducer.unpack(rows)
    assert states["neurons"].max() > 160  # of both ranks
    known = Pooled(torch.from_numpy(expected_acts), torch.from_numpy(expected_hidden))
    expected = reducer.unpack(reducer.pack(known).numpy())
    assert (states["neurons"] == expected["neurons"]).mean() > 0.99


def test_what_cannot_be_hooked_or_loaded_is_said(open_engine, random_checkpoint, tmp_path):
    folder, _ = random_checkpoint("LlamaConfig")
    with pytest.raises(ModelError, match=r"no such module.*layers\.\*\.mlp\.down_proj"):
        open_engine(folder, max_tokens=512, hook_module="layers.*.mlp.out")
    with pytest.raises(ModelError, match="must be divisible by tensor parallel size"):
        open_engine(folder, max_tokens=512, tensor_parallel=3)
    with pytest.raises(ModelError, match="vLLM cannot load"):
        open_engine(tmp_path / "nothing")
