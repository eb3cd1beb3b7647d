"""The table of engines, and what its contract is enough for."""

import inspect
from functools import partial
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import torch

from mads_ray.capture.calibration import fit_calibration
from mads_ray.capture.engines import ENGINES, open_engine
from mads_ray.capture.engines.engine import Engine, EngineOptions, StateRows, hand_over
from mads_ray.capture.model import Located, ModelIdentity
from mads_ray.capture.opened import ModelSettings, open_model
from mads_ray.capture.reducer import Pooled, StateReducer
from mads_ray.capture.shard import capture_shard, tokenised_windows
from mads_ray.config import CaptureConfig
from mads_ray.errors import ConfigError
from mads_ray.hashing import row_ids
from mads_ray.states import read_matrix


class Lengths:
    """The smallest engine: it has no model, and its neurons are on by the length of an example."""

    layers, width, hidden_size = 2, 8, 4
    device, peak = torch.device("cpu"), None

    def __init__(self, located, options):
        self.longest = options.max_tokens

    def run(self, windows, rows_as, stats, sink, journal=None):
        for examples in windows:
            lengths = [len(e.ids_T) for e in examples.values()]
            acts = torch.tensor(lengths).float()[:, None, None] * torch.arange(8)[None, None]
            pooled = Pooled(acts.expand(-1, 2, -1), torch.zeros(len(lengths), 4))
            hand_over(list(examples), rows_as.pack(pooled).numpy(), stats, sink)
            stats.tokens += sum(lengths)


def test_the_settings_know_the_engines_of_the_table():
    assert list(ENGINES) == list(get_args(CaptureConfig.model_fields["engine"].annotation))


@pytest.mark.parametrize("name", ENGINES)
def test_each_engine_fulfils_the_contract(name):
    engine = getattr(ENGINES[name], "__self__", ENGINES[name])  # the class that is opened
    wanted, found = (inspect.signature(e.run).parameters for e in (Engine, engine))
    assert [(p.name, p.default) for p in found.values()] == [
        (p.name, p.default) for p in wanted.values()
    ]
    source = inspect.getsource(engine)
    for attribute in ("layers", "width", "hidden_size", "device", "peak"):
        assert f"self.{attribute}" in source


def test_an_unknown_engine_is_refused_with_the_known_ones():
    located = Located("any", None, ModelIdentity("any", "", "float32"))
    with pytest.raises(ConfigError, match=r"'sglang'; known engines: transformers, vllm"):
        open_engine("sglang", located, EngineOptions())


def test_a_third_engine_captures_a_shard(monkeypatch, sample_rows, renderer):
    monkeypatch.setitem(ENGINES, "lengths", Lengths)
    settings = ModelSettings("smollm2-135m", dtype="float32", engine="lengths")
    opened = open_model(settings, threads=torch.get_num_threads())
    assert opened.facts["engine"] == "lengths"
    assert (opened.facts["layers"], opened.facts["width"]) == (2, 8)
    assert opened.engine.longest == 2048

    turns = sample_rows[:6]
    uids = [f"{i:032x}" for i in range(len(turns))]
    columns = {"uid": uids, "row_id": row_ids(uids), "messages": [t.to_json() for t in turns]}
    acts_NLF = np.random.default_rng(0).random((5, 2, 8), np.float32)
    reducer = StateReducer(fit_calibration([acts_NLF], 3, 2), opened.engine.device)
    windows = partial(tokenised_windows, opened.renderer)
    states, stats, _ = capture_shard(opened.engine, windows, StateRows(reducer), pa.table(columns))
    assert states.column("uid").to_pylist() == uids
    assert stats.tokens == sum(len(renderer(t).ids_T) for t in turns)
    assert read_matrix(states, "neurons").shape == (6, 2 * 3)
