"""The whole pipeline on the vLLM engine, inside Ray's actors."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from mads_ray.states import read_matrix


def mads_ray(*flags):
    command = [sys.executable, "-m", "mads_ray", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ)


@pytest.fixture(scope="module")
def runs(small_corpus, tmp_path_factory):
    """{engine: run folder} of the same corpus, model and precision."""
    folders = {}
    for engine in ("transformers", "vllm"):
        folders[engine] = tmp_path_factory.mktemp(engine) / "run"
        flags = ["--size", "20", "--workers", "1", "--engine", engine]
        flags += ["--set", "capture.dtype=float32"]
        told = mads_ray("run", "--input", small_corpus, "--output", folders[engine], *flags)
        assert told.returncode == 0, told.stderr
    return folders


def states(folder):
    tables = [pq.read_table(p) for p in sorted((folder / "states").glob("*.parquet"))]
    rows = {}
    for table in tables:
        neurons = read_matrix(table, "neurons")
        rows |= dict(zip(table.column("uid").to_pylist(), neurons, strict=True))
    return rows


def test_a_run_on_vllm_finds_the_states_of_transformers(runs):
    ours, reference = states(runs["vllm"]), states(runs["transformers"])
    assert sorted(ours) == sorted(reference)
    assert len(ours) > 90
    same = [
        len(np.intersect1d(a, b)) / 64
        for uid in ours
        for a, b in zip(ours[uid].reshape(-1, 64), reference[uid].reshape(-1, 64), strict=True)
    ]
    assert np.mean(same) >= 0.99
    told = json.loads((runs["vllm"] / "run.json").read_text(encoding="utf-8"))
    counts = told["counts"]
    assert counts["selected"] == 20
    manifest = json.loads((runs["vllm"] / "states" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["engine"], manifest["dtype"]) == ("vllm", "float32")
    assert manifest["calibration_padded_tokens"] == manifest["calibration_tokens"]


def test_states_of_two_engines_do_not_mix(runs, small_corpus):
    told = mads_ray("run", "--input", small_corpus, "--output", runs["vllm"], "--size", "20")
    assert told.returncode == 2
    assert "engine: stored 'vllm', wanted 'transformers'" in told.stderr


def test_a_calibration_brings_its_engine_along(runs, small_corpus, tmp_path):
    flags = ["--input", small_corpus / "messages.jsonl", "--output", tmp_path / "more"]
    told = mads_ray("capture", *flags, "--calibration-from", runs["vllm"], "--workers", "1")
    assert told.returncode == 0, told.stderr
    of_both = [
        json.loads((folder / "states" / "manifest.json").read_text(encoding="utf-8"))
        for folder in (tmp_path / "more", runs["vllm"])
    ]
    for name in ("engine", "calibration", "dtype"):
        assert of_both[0][name] == of_both[1][name]


def test_two_ranks_of_a_model_inside_one_actor(random_checkpoint, small_corpus, tmp_path):
    folder, _ = random_checkpoint("LlamaConfig")
    flags = ["--engine", "vllm", "--model", folder, "--set", "capture.tensor_parallel=2"]
    flags += ["--set", "capture.neurons_per_layer=16", "--set", "capture.max_tokens=512"]
    flags += ["--workers", "1", "--size", "9", "--output", tmp_path / "run"]
    told = mads_ray("run", "--input", small_corpus / "alpaca.jsonl", *flags)
    assert told.returncode == 0, told.stderr
    manifest = json.loads((tmp_path / "run/states/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["layers"], manifest["width"], manifest["engine"]) == (3, 320, "vllm")
    assert max(n.max() for n in states(tmp_path / "run").values()) > 160  # of the second rank
