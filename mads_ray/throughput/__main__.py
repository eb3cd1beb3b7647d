"""`mads-ray bench throughput`, and `python -m mads_ray.throughput` where there is only torch."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from mads_ray.capture import SMOLLM2
from mads_ray.capture.model import DTYPES, load_model, pick_device, pick_dtype
from mads_ray.capture.prompts import PromptRenderer
from mads_ray.capture.transformers_engine import TransformersEngine
from mads_ray.errors import ConfigError, MadsRayError
from mads_ray.throughput.measure import hook_overhead, naive_seconds, peak_memory_gb
from mads_ray.throughput.shapes import Flops, peak_tflops, random_model
from mads_ray.throughput.workload import MIXES, from_corpus, generated


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a card and one JSON line; 2 for bad options."""
    options = _parser().parse_args(argv)
    try:
        result = measure(options)
    except MadsRayError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    for key, value in result.items():
        print(f"  {key:16} {value}")
    print(json.dumps(result))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, by name."""
    device = pick_device()
    dtype = pick_dtype(device) if options.dtype == "auto" else options.dtype
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = None
    if options.random_weights:
        model = random_model(options.random_weights, device, DTYPES[dtype])
    else:
        model, tokenizer, _ = load_model(options.model, options.revision, dtype)
    rows = options.rows or (4096 if device.type == "cuda" else 128)
    if options.input:
        if tokenizer is None:
            _, tokenizer, _ = load_model(options.model, options.revision, dtype)
        examples = from_corpus(options.input, rows, PromptRenderer(tokenizer, options.max_tokens))
    else:
        vocabulary = model.get_input_embeddings().weight.shape[0]
        examples = generated(options.mix, rows, vocabulary)
    engine = TransformersEngine(model)
    budget = options.token_budget or engine.first_budget()
    lengths = [len(e.ids_T) for e in examples]
    flops = Flops.of(model).of_rows(lengths)
    found = hook_overhead(model, engine, examples, budget, options.repeats)
    peak = options.peak_tflops or peak_tflops(device)
    result: dict[str, Any] = {
        "benchmark": "throughput",
        "engine": "transformers",
        "model": options.random_weights or options.model,
        "weights": "random" if options.random_weights else "real",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "workload": "corpus" if options.input else options.mix,
        "rows": len(examples),
        "mean_tokens": round(sum(lengths) / len(lengths), 1),
        "token_budget": budget,
        **{name: round(value, 4) for name, value in found.items()},
        "naive_hf_ratio": None,
        "mfu": round(flops / found["loop_s"] / (peak * 1e12), 4) if peak else None,
        "tflops_per_s": round(flops / found["loop_s"] / 1e12, 3),
        "mfu_formula": "(2 x weights without embedding x tokens + 4 x layers x heads x head size "
        "x pairs of tokens) / seconds / peak",
        "peak_memory_gb": round(peak_memory_gb(device), 2),
        "ray_loop_ratio": None,
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "python": platform.python_version(),
    }
    if options.ray:
        result |= _ray(options, dtype)
    if not options.no_naive:
        seconds = naive_seconds(model, examples)
        result["naive_hf_ratio"] = round(seconds / found["loop_s"], 3)
    return result


def _ray(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """The whole corpus through Ray, and through a loop without it."""
    from mads_ray.config import RunConfig  # neither pydantic nor Ray is needed above
    from mads_ray.pipeline.throughput import ray_against_a_loop

    if not options.input or options.random_weights:
        raise ConfigError("--ray needs --input and a model with a tokenizer")
    with tempfile.TemporaryDirectory(prefix="mads_ray-") as folder:
        config = RunConfig(
            input=tuple(options.input),
            output=folder,
            corpus={"shard_rows": 256},
            capture={
                "model": options.model,
                "revision": options.revision,
                "dtype": dtype,
                "token_budget": options.token_budget,
                "max_tokens": options.max_tokens,
                "calibration_rows": 64,
            },
            ray={"cpus_per_worker": torch.get_num_threads()},
        )
        loop, on_ray, rows = ray_against_a_loop(config)
    return {
        "ray_loop_ratio": round(loop / on_ray, 3),
        "ray_rows": rows,
        "ray_rows_per_s": round(rows / on_ray, 3),
        "bare_loop_rows_per_s": round(rows / loop, 3),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mads-ray bench throughput",
        description="Rows and tokens a second of capture, against a bare forward and naive use.",
    )
    parser.add_argument("--model", default=SMOLLM2, help="hub name, local folder or smollm2-135m")
    parser.add_argument("--revision", default=None)
    parser.add_argument("--random-weights", metavar="SHAPE", help="e.g. llama-3.2-3b; no download")
    parser.add_argument("--input", nargs="*", help="corpus; without it rows of random tokens")
    parser.add_argument("--mix", choices=sorted(MIXES), default="instructions")
    parser.add_argument("--rows", type=int, help="default 128 on a CPU, 4096 on a GPU")
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--token-budget", type=int, help="padded tokens in a micro-batch")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="of the device, where it is not known")
    parser.add_argument("--ray", action="store_true", help="all of --input through Ray as well")
    parser.add_argument("--no-naive", action="store_true", help="leave naive transformers out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
