"""torch.compile: for whole layers where it is asked for, for max pooling on every GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from mads_ray.errors import ModelError, reason_of

log = logging.getLogger(__name__)

# (acts_BTF, outside_BT1) -> float32 (B, F)
Pool = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def compile_function(pool: Pool) -> Pool:
    """As one kernel that reads the activations once. Eager mode makes copies and reads them."""
    compiled: Pool = torch.compile(pool, dynamic=True)
    return compiled


def fused_or_plain(pool: Pool, device: torch.device) -> Pool:
    """The compiled pooling where it works on this machine, else `pool` and a warning.

    On a GPU eager pooling moves every activation through memory five times. One fused kernel saves
    most of that, which is a noticeable share of the forward pass.
    """
    acts_BTF = torch.zeros((2, 8, 64), dtype=torch.bfloat16, device=device)
    outside_BT1 = torch.zeros((2, 8, 1), dtype=torch.bool, device=device)
    fused = compile_function(pool)
    try:
        with torch.inference_mode():
            fused(acts_BTF, outside_BT1)
    except Exception as e:  # compilers fail in many ways, and capture works without them
        log.warning("pooling is not compiled and somewhat slower: %s", first_line(e))
        return pool
    return fused


def outside_graphs(hook: Any) -> Any:
    """A hook that stays outside the graphs of compiled layers; what it calls may be compiled.

    Inside, the number of its layer would make each layer a graph of its own.
    """
    return torch.compiler.disable(hook, recursive=False)  # type: ignore[no-untyped-call]


def cannot_compile(e: Exception) -> ModelError:
    """The error for a user: the reason, and what to do about it."""
    return ModelError(
        f"torch.compile fails here: {first_line(e)}\nIt needs a C++ compiler on a CPU and Triton "
        "on a GPU. Without: leave capture.compile out, or set TORCHDYNAMO_DISABLE=1"
    )


def first_line(e: Exception) -> str:
    """The reason, without pages of generated code."""
    return reason_of(e, 300, named=True)
