"""`mads-ray bench throughput`, and `python -m mads_ray.bench` on a bare machine.

The engine and this file need torch, transformers, numpy and pyarrow; only --ray needs the rest.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mads_ray.bench.measure import against_vllm, peak_memory_gb, side_by_side
from mads_ray.bench.workload import MIXES, from_corpus, generated, random_model
from mads_ray.capture import SMOLLM2
from mads_ray.capture.engines.engine import EngineOptions
from mads_ray.capture.engines.transformers_engine import TransformersEngine
from mads_ray.capture.flops import Flops, peak_tflops
from mads_ray.capture.model import DTYPES, load_model, locate, pick_device, pick_dtype
from mads_ray.capture.prompts.examples import PromptRenderer
from mads_ray.errors import ConfigError, MadsRayError

_CALIBRATION_ROWS = 64  # with --ray
_FORMULA = (
    "(2 x weights of linear layers x tokens + 4 x layers x heads x head size x pairs of tokens) "
    "/ seconds / peak"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a card and one JSON line; 2 for what a user can mend."""
    try:
        result = figures(argv)
    except MadsRayError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except torch.cuda.OutOfMemoryError:
        print("error: out of device memory; try --no-naive or --max-tokens", file=sys.stderr)
        return 2
    for key, value in result.items():
        print(f"  {key:16} {value}")
    print(json.dumps(result))
    return 0


def figures(argv: Sequence[str] | None) -> dict[str, Any]:
    """Everything that these flags measure. Raises MadsRayError."""
    options = _parser().parse_args(argv)
    _check(options)
    result = measure(options)
    if options.ray:
        result |= _ray(options, result["dtype"])
    return result


def _check(options: argparse.Namespace) -> None:
    """Raise ConfigError at once for options that do not go together."""
    if options.input and options.random_weights:
        raise ConfigError("--input needs a tokenizer, which --random-weights has not")
    if options.ray and not options.input:
        raise ConfigError("--ray needs --input")
    if options.vllm and options.random_weights:
        raise ConfigError("--vllm needs a model with files, which --random-weights is not")
    if options.vllm and importlib.util.find_spec("vllm") is None:
        raise ConfigError("--vllm needs vLLM, which is not installed here")
    if options.repeats < 1 or (options.rows or 1) < 1:
        raise ConfigError("--repeats and --rows are at least 1")
    if min(options.token_budget or 16, options.max_tokens) < 16:
        raise ConfigError("--token-budget and --max-tokens are at least 16")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures but those of Ray, by name."""
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
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = min(options.max_tokens, positions or options.max_tokens)
    if options.input:
        examples = from_corpus(options.input, rows, PromptRenderer(tokenizer, longest))
    else:
        vocabulary = model.get_input_embeddings().weight.shape[0]
        examples = generated(options.mix, rows, vocabulary, longest)
    asked = EngineOptions(
        pooling=options.pooling,
        hook_module=options.hook_module,
        max_tokens=longest,
        token_budget=options.token_budget,
        compile=options.compile,
    )
    started = time.perf_counter()
    engine = TransformersEngine(model, asked)
    opened_s = time.perf_counter() - started
    lengths = [len(e.ids_T) for e in examples]
    found = side_by_side(model, engine, examples, options.repeats, not options.no_naive)
    vllm: dict[str, Any] = {"vllm_ratio": None}
    if options.vllm:
        located = locate(options.model, options.revision, dtype)
        own_steps = replace(asked, token_budget=None)  # a budget of batches is none of steps
        vllm = against_vllm(engine, located, own_steps, examples, options.repeats)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = options.peak_tflops or peak_tflops(name, dtype)
    flops_per_s = Flops.of(model).of_rows(lengths) / found["loop_s"]
    return {
        "benchmark": "throughput",
        "engine": "transformers",
        "model": options.random_weights or options.model,
        "weights": "random" if options.random_weights else "real",
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "workload": "corpus" if options.input else options.mix,
        "rows": len(examples),
        "mean_tokens": round(sum(lengths) / len(lengths), 1),
        "token_budget": engine.token_budget,
        "token_budget_at_the_end": engine.budget.tokens,
        "rows_per_s": round(len(examples) / found["loop_s"], 4),
        "tokens_per_s": round(sum(lengths) / found["loop_s"], 2),
        "naive_hf_ratio": None,
        **{key: round(value, 4) for key, value in found.items()},
        "ray_loop_ratio": None,
        **vllm,
        "compiled": options.compile,
        "engine_opened_s": round(opened_s, 2),
        "mfu": round(flops_per_s / (peak * 1e12), 6) if peak else None,
        "mfu_formula": _FORMULA,
        "tflops_per_s": round(flops_per_s / 1e12, 6),
        "peak_memory_gb": round(peak_memory_gb(device), 2),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "python": platform.python_version(),
    }


def _ray(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """The whole corpus through Ray, and through a loop without it."""
    from mads_ray.config import RunConfig
    from mads_ray.pipeline.bench import ray_against_a_loop

    with tempfile.TemporaryDirectory(prefix="mads_ray-") as folder:
        config = RunConfig(
            input=tuple(options.input),
            output=folder,
            corpus={"shard_rows": 256},
            capture={
                "model": options.model,
                "revision": options.revision,
                "dtype": dtype,
                "batch_tokens": options.token_budget,
                "max_tokens": options.max_tokens,
                "pooling": options.pooling,
                "hook_module": options.hook_module,
                "compile": options.compile,
                "calibration_rows": _CALIBRATION_ROWS,
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
    parser.add_argument("--hook-module", help="of an unknown architecture: 'h.*.mlp.out'")
    parser.add_argument("--random-weights", metavar="SHAPE", help="e.g. llama-3.2-3b; no download")
    parser.add_argument("--input", nargs="*", help="corpus; without it rows of random tokens")
    parser.add_argument("--mix", choices=sorted(MIXES), default="instructions")
    parser.add_argument("--rows", type=int, help="default 128 on a CPU, 4096 on a GPU")
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--token-budget", type=int, help="padded tokens in a micro-batch")
    parser.add_argument("--pooling", choices=["max", "mean"], default="max")
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="of the device, where it is not known")
    parser.add_argument("--compile", action="store_true", help="torch.compile; also without it")
    parser.add_argument("--vllm", action="store_true", help="the vLLM engine as well, if installed")
    parser.add_argument("--ray", action="store_true", help="all of --input through Ray as well")
    parser.add_argument("--no-naive", action="store_true", help="leave naive transformers out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
