"""The throughput benchmark on a tiny model: its numbers add up, and its flops are torch's."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import mads_ray.bench.measure as measure
from mads_ray.bench.__main__ import main
from mads_ray.bench.workload import MIXES, from_corpus, generated, random_model
from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.flops import Flops, peak_tflops
from mads_ray.cli import app
from mads_ray.errors import ModelError


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
    assert told["outside_model"] == pytest.approx(1 - told["forward_s"] / told["loop_s"], abs=0.2)
    assert told["mfu"] is None  # of a CPU nobody promised a figure
    assert told["device"] == "cpu"


def test_mfu_is_the_share_of_the_promised_flops(capsys):
    flags = ["--random-weights", "tiny", "--rows", "8", "--no-naive", "--dtype", "float32"]
    assert main([*flags, "--peak-tflops", "0.5"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["mfu"] == pytest.approx(told["tflops_per_s"] / 0.5, abs=2e-6)
    assert told["mfu"] > 0
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
    assert flops.per_token * length == counts["aten.mm"]
    # torch counts every pair of tokens, also those that causal attention leaves out.
    assert flops.per_token_pair * length**2 == attention
    pairs = length * (length + 1) / 2
    assert flops.of_rows([length]) == flops.per_token * length + flops.per_token_pair * pairs


@pytest.mark.parametrize("mix", MIXES)
def test_generated_rows_have_the_lengths_of_their_mix(mix):
    examples = generated(mix, 4000, 100, 8192)
    lengths = np.array([len(e.ids_T) for e in examples])
    assert lengths.max() <= MIXES[mix].longest
    assert 0.8 * MIXES[mix].mean < lengths.mean() < 1.1 * MIXES[mix].mean
    assert all(e.own_T.any() and len(e.own_T) == len(e.ids_T) for e in examples[:200])
    again, short = generated(mix, 20, 100, 8192), generated(mix, 20, 100, 99)
    assert [e.ids_T.tolist() for e in again] != [e.ids_T.tolist() for e in short]
    assert max(len(e.ids_T) for e in short) == 99


class Seen(TransformersEngine):
    """Notes its batches."""

    def pool(self, examples):
        self.batches = [*getattr(self, "batches", []), [id(e) for e in examples]]
        return super().pool(examples)


def test_the_batches_are_those_of_the_capture(tiny, monkeypatch):
    """Also over several windows."""
    monkeypatch.setattr("mads_ray.capture.shard.WINDOW", 20)
    examples, engine = generated("instructions", 50, 100, 2048), Seen(tiny)
    engine.batches = []  # less the probe at the start
    measure.capture_loop(engine, measure.any_states(engine), examples)
    assert engine.batches == [[id(e) for e in b] for b in measure.batches_of(examples, 2048)]
    assert len(engine.batches) > 3


def test_rows_that_fail_are_no_throughput(tiny):
    class Broken(TransformersEngine):
        def pool(self, examples):
            pooled = super().pool(examples)
            pooled.acts_BLF[0, 0, 0] = float("nan") if len(examples) > 1 else 0.0
            return pooled

    engine = Broken(tiny)
    rows = generated("instructions", 9, 100, 99)
    with pytest.raises(ModelError, match=r"the model fails on 1 rows: .* not finite"):
        measure.capture_loop(engine, measure.any_states(engine), rows)


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.0),
        ("NVIDIA H100 PCIe", "float16", 756.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None),
        ("NVIDIA H100 80GB HBM3", "float32", None),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312.0),
        ("NVIDIA L40", "bfloat16", None),
        ("NVIDIA RTX A1000", "bfloat16", None),
    ],
)
def test_only_a_device_on_the_list_has_a_peak(name, dtype, peak):
    assert peak_tflops(name, dtype) == peak


@pytest.mark.slow
def test_through_ray(capsys, tiny_model, tmp_path):
    lines = [
        json.dumps({"instruction": f"Say the number {i}.", "input": "", "output": str(i)})
        for i in range(300)
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    flags = ["--model", str(tiny_model), "--input", str(tmp_path / "corpus.jsonl")]
    flags += ["--rows", "4", "--repeats", "1", "--no-naive", "--threads", "1", "--ray"]
    assert main(flags) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ray_rows"] == 300 - 64
    ratio = told["ray_rows_per_s"] / told["bare_loop_rows_per_s"]
    assert told["ray_loop_ratio"] == pytest.approx(ratio, rel=0.02)


def test_what_it_cannot_do_it_says(capsys):
    for flags, reason in [
        (["--random-weights", "gpt-9"], "known shapes are"),
        (["--random-weights", "tiny", "--input", "x"], "needs a tokenizer"),
        (["--ray"], "--ray needs --input"),
        (["--vllm", "--random-weights", "tiny"], "--vllm needs a model with files"),
        (["--repeats", "0"], "at least 1"),
        (["--token-budget", "8"], "at least 16"),
    ]:
        assert main(flags) == 2
        assert reason in capsys.readouterr().err
    told = CliRunner().invoke(app, ["bench", "throughput", "--help"])
    assert told.exit_code == 0
    assert "--random-weights" in told.output


def test_a_bare_machine_needs_neither_ray_nor_pydantic():
    flags = ["--random-weights", "tiny", "--rows", "8", "--repeats", "1", "--dtype", "float32"]
    missing = "import sys; sys.modules |= dict.fromkeys(['ray', 'pydantic', 'typer', 'vllm'])"
    code = f"{missing}; from mads_ray.bench.__main__ import main; sys.exit(main({flags}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 8
