"""torch.compile changes the speed, not the features."""

import pytest
import torch

from mads_ray.bench.workload import generated, random_model
from mads_ray.capture.engines.compiling import compile_function, fused_or_plain
from mads_ray.capture.engines.engine import EngineOptions
from mads_ray.capture.engines.transformers_engine import _POOLINGS, TransformersEngine
from mads_ray.errors import ModelError

CPU = torch.device("cpu")


@pytest.mark.parametrize("pooling", _POOLINGS)
def test_the_fused_pooling_is_the_plain_one(pooling):
    plain = _POOLINGS[pooling]
    fused = compile_function(plain)
    torch.manual_seed(0)
    for rows, tokens in ((1, 9), (3, 40), (5, 17)):
        acts = torch.randn(rows, tokens, 48).to(torch.bfloat16)
        outside = torch.rand(rows, tokens, 1) < 0.4
        outside[:, 0] = False
        expected = plain(acts, outside)
        if pooling == "max":
            assert torch.equal(fused(acts, outside), expected)
        else:
            torch.testing.assert_close(fused(acts, outside), expected, rtol=1e-6, atol=1e-6)


def test_compiled_layers_give_the_features_of_eager_ones():
    """And one graph serves layers and shapes alike: a recompilation each would never pay."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    examples = generated("instructions", 24, 900, 200)
    engines = [
        TransformersEngine(
            random_model("tiny", CPU, torch.float32), EngineOptions(compile=compiled)
        )
        for compiled in (False, True)
    ]
    for start, end in ((0, 1), (1, 4), (4, 12), (12, 24)):
        eager, compiled = (e.pool(examples[start:end]) for e in engines)
        torch.testing.assert_close(compiled.acts_BLF, eager.acts_BLF, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled.hidden_BH, eager.hidden_BH, rtol=1e-4, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 2 <= graphs <= 12


def test_without_a_compiler_it_says_so_where_it_was_asked_for(monkeypatch, tmp_path):
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = random_model("tiny", CPU, torch.float32)
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/no/compiler")}),
        pytest.raises(ModelError, match=r"needs a C\+\+ compiler on a CPU"),
    ):
        TransformersEngine(model, EngineOptions(compile=True))


def test_a_gpu_without_a_compiler_pools_in_eager_mode(monkeypatch, caplog):
    def broken(_pool):
        def call(*_args):
            raise RuntimeError("no Triton")

        return call

    monkeypatch.setattr("mads_ray.capture.engines.compiling.compile_function", broken)
    assert fused_or_plain(_POOLINGS["max"], CPU) is _POOLINGS["max"]
    assert "no Triton" in caplog.text
    monkeypatch.undo()
    assert fused_or_plain(_POOLINGS["max"], CPU) is not _POOLINGS["max"]
