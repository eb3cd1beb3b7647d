"""Tokenising as a stage of its own changes no byte of the states."""

import json

import pyarrow.parquet as pq
import pytest

from mads_ray.config import CaptureConfig, CorpusConfig, RayConfig, RunConfig
from mads_ray.errors import MismatchError
from mads_ray.pipeline.capture import tokeniser as stage
from mads_ray.pipeline.capture.stage import capture
from mads_ray.pipeline.capture.tokeniser import tokenisers
from mads_ray.pipeline.current_run import Run
from mads_ray.pipeline.ingest import find_input, ingest
from mads_ray.pipeline.runtime import session
from mads_ray.pipeline.runtime.progress import Clock
from mads_ray.pipeline.runtime.session import PoolShape
from mads_ray.run_folder import RunFolder
from mads_ray.states import StatesManifest


def states(rows, tiny_model, output, **ray):
    """The states of a corpus, shard by shard, as tables."""
    config = RunConfig(
        input=(str(rows),),
        output=str(output),
        capture=CaptureConfig(model=str(tiny_model), calibration_rows=40, max_tokens=64),
        ray=RayConfig(**ray),
    )
    folder = RunFolder(output)
    with folder.claim():
        run = Run(config, folder, Clock())
        found = find_input(config.input, CorpusConfig(), folder)
        captured = capture(run, config.capture, ingest(run, CorpusConfig(), found))
    return [pq.read_table(s.states) for s in captured.shards], captured


@pytest.fixture
def rows(tmp_path):
    words = ["red", "green", "blue", "seven", "of", "a"]
    texts = [" ".join(words[(i * k) % 6] for k in range(1 + i % 90)) for i in range(300)]
    made = [{"instruction": f"{i}? {t}", "output": t[::-1]} for i, t in enumerate(texts)]
    made.append({"instruction": "​", "output": "​"})  # no token of its own
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in made), encoding="utf-8")
    return path


def test_states_are_the_same_bytes(ray_local, rows, tiny_model, tmp_path, monkeypatch):
    alone, _ = states(rows, tiny_model, tmp_path / "alone", tokenise_workers=0)
    shape = session.PoolShape
    # Two shards at once, as on a GPU.
    monkeypatch.setattr(session, "PoolShape", lambda *a: shape(*a[:4], at_once=2))
    ahead, captured = states(rows, tiny_model, tmp_path / "ahead", tokenise_workers=1)
    assert len(alone) == len(ahead) > 2
    assert all(a.equals(b) for a, b in zip(alone, ahead, strict=True))
    assert sum(r.cut_rows for r in captured.records) > 0

    manifest = captured.manifest
    other = StatesManifest(**{f: getattr(manifest, f) for f in manifest.__dataclass_fields__})
    object.__setattr__(other, "template", "0ther")
    config = CaptureConfig(model=str(tiny_model), max_tokens=64)
    with pytest.raises(MismatchError, match="template: stored '0ther'"):
        stage.tokeniser(config, other, captured.folder)


@pytest.mark.parametrize(
    ("asked", "shape", "cpus", "workers"),
    [
        (None, PoolShape(2, 2), 16, None),  # CPUs: the workers do it themselves
        (None, PoolShape(2, 2, 1, 1.0), 16, 4),
        (None, PoolShape(8, 8, 1, 1.0), 12, 3),
        (None, PoolShape(8, 8, 1, 1.0), 9, None),  # no CPU is left
        (0, PoolShape(2, 2, 1, 1.0), 16, None),
        (5, PoolShape(2, 2), 16, 5),
    ],
)
def test_it_is_a_stage_where_it_pays(monkeypatch, asked, shape, cpus, workers):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": float(cpus)})
    before = tokenisers(RayConfig(tokenise_workers=asked), CaptureConfig(), None, None)(shape)
    assert (before and before.workers) == workers
