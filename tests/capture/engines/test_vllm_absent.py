"""Where vLLM is not installed, asking for it says so. Where it is, see tests/vllm."""

import importlib.util

import pytest

from mads_ray.capture.engines.vllm_engine import VllmEngine, _bounds
from mads_ray.capture.model import Located, ModelIdentity
from mads_ray.errors import ModelError


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_engine_says_how_to_get_it():
    with pytest.raises(ModelError, match=r"pip install 'mads_ray\[vllm\]'"):
        VllmEngine(Located("any", None, ModelIdentity("any", "main", "float32")))


@pytest.mark.parametrize(
    ("own", "bounds"),
    [("0110", [1, 3]), ("11", [0, 2]), ("1001", [0, 1, 3, 4]), ("0", []), ("", [])],
)
def test_runs_of_own_tokens_travel_by_their_bounds(own, bounds):
    import numpy as np

    assert _bounds(np.array([c == "1" for c in own], bool)) == bounds
