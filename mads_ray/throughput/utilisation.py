"""Model FLOPs utilisation of work that is under way: the time that the GPU would take at its peak.

The formula is that of `mads-ray bench throughput`. A worker counts; who adds up divides by the
seconds that the devices took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mads_ray.throughput.shapes import Flops, peak_tflops


@dataclass(frozen=True, slots=True)
class Peak:
    """A model on a GPU whose peak is known."""

    flops: Flops
    flops_per_s: float

    @classmethod
    def of(cls, model: Any, dtype: str) -> Peak | None:
        """None on a CPU, and on GPUs and with precisions that no data sheet here tells of."""
        device = next(model.parameters()).device
        if device.type != "cuda":
            return None
        peak = peak_tflops(torch.cuda.get_device_name(device), dtype)
        return cls(Flops.of(model), peak * 1e12) if peak else None

    def seconds(self, tokens: int, lengths: list[int]) -> float:
        """For so many tokens, in rows of these lengths (all of them, or others beside them)."""
        total = sum(lengths)
        if not total:
            return 0.0
        return self.flops.of_rows(lengths) / self.flops_per_s * tokens / total
