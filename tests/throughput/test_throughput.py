"""The throughput benchmark on a tiny model: its numbers add up, and its flops are torch's."""

import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from mads_ray.capture.batching import TokenBudget
from mads_ray.capture.shard import RunStats, run_batches
from mads_ray.capture.transformers_engine import TransformersEngine
from mads_ray.cli import app
from mads_ray.throughput.__main__ import main
from mads_ray.throughput.measure import batches_of
from mads_ray.throughput.shapes import Flops, random_model
from mads_ray.throughput.workload import MIXES, from_corpus, generated


@pytest.fixture(scope="module")
def tiny():
    return random_model("tiny", torch.device("cpu"), torch.float32)


def test_one_json_line_with_every_figure(capsys):
    assert main(["--random-weights", "tiny", "--rows", "40", "--dtype", "float32"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("rows_per_s", "tokens_per_s", "naive_hf_ratio", "peak_memory_gb", "forward_s"):
        assert told[name] > 0
    assert told["rows_per_s"] == pytest.approx(40 / told["loop_s"], rel=1e-2)
    assert told["tokens_per_s"] == pytest.approx(told["mean_tokens"] * told["rows_per_s"], rel=1e-2)
    assert 0 <= told["padding_waste"] < 1
    assert 0 <= told["outside_model"] < 1
    assert told["mfu"] is None  # of a CPU nobody promised a figure
    assert told["device"] == "cpu"


def test_mfu_is_the_share_of_the_promised_flops(capsys):
    flags = ["--random-weights", "tiny", "--rows", "8", "--no-naive", "--dtype", "float32"]
    assert main([*flags, "--peak-tflops", "0.5"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["mfu"] == pytest.approx(told["tflops_per_s"] / 0.5, rel=0.2, abs=2e-3)
    assert told["naive_hf_ratio"] is None


def test_a_corpus_with_the_real_model(capsys, small_corpus, renderer):
    flags = ["--input", str(small_corpus), "--rows", "6", "--repeats", "1", "--no-naive"]
    assert main(flags) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    examples = from_corpus([str(small_corpus)], 6, renderer)
    assert told["rows"] == 6
    assert told["mean_tokens"] == round(np.mean([len(e.ids_T) for e in examples]), 1)
    assert (told["model"], told["weights"], told["workload"]) == ("smollm2-135m", "real", "corpus")


@pytest.mark.parametrize("length", [7, 64])
def test_flops_are_those_that_torch_counts(length):
    model = random_model("tiny", torch.device("cpu"), torch.float32)
    model.set_attn_implementation("eager")  # the fused kernel of the CPU is not counted
    ids = torch.randint(0, 100, (1, length))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    attention = counts["aten.bmm"]
    flops = Flops.of(model)
    norms = sum(p.numel() for n, p in model.named_parameters() if "norm" in n)
    assert flops.per_token * length - 2 * norms * length == counts["aten.mm"]
    # torch counts every pair of tokens, also those that causal attention leaves out.
    assert flops.per_token_pair * length**2 == attention
    pairs = length * (length + 1) / 2
    assert flops.of_rows([length]) == flops.per_token * length + flops.per_token_pair * pairs


@pytest.mark.parametrize("mix", MIXES)
def test_generated_rows_have_the_lengths_of_their_mix(mix):
    examples = generated(mix, 4000, 100)
    lengths = np.array([len(e.ids_T) for e in examples])
    assert lengths.max() <= MIXES[mix].longest
    assert 0.8 * MIXES[mix].mean < lengths.mean() < 1.1 * MIXES[mix].mean
    assert all(e.own_T.any() and len(e.own_T) == len(e.ids_T) for e in examples[:200])
    again = generated(mix, 20, 100)
    assert [e.ids_T.tolist() for e in again] == [e.ids_T.tolist() for e in generated(mix, 20, 100)]


def test_the_batches_are_those_of_the_capture(tiny):
    examples, stats = generated("instructions", 50, 100), RunStats()
    run_batches(
        TransformersEngine(tiny),
        dict(enumerate(examples)),
        TokenBudget(2048),
        stats,
        lambda _rows, _pooled: None,
    )
    mine = batches_of(examples, 2048)
    assert sum(len(b) * len(b[0].ids_T) for b in mine) == stats.padded_tokens


def test_what_it_cannot_do_it_says(capsys):
    assert main(["--random-weights", "gpt-9"]) == 2
    assert "known shapes are" in capsys.readouterr().err
    told = CliRunner().invoke(app, ["bench", "throughput", "--help"])
    assert told.exit_code == 0
    assert "--random-weights" in told.output
