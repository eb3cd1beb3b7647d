"""The kind of machine, as far as it decides how floating-point numbers are rounded."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
import transformers

_INSTRUCTIONS = ("avx", "amx", "fma", "asimd", "neon", "sve")


def machine() -> str:
    """Processor, instructions, settings of OpenBLAS, GPU and packages, in one line.

    Libraries choose their kernels by vendor and model of the processor, too, not by its
    instructions alone: only machines that are alike in all of this have digests in common.
    """
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has = sorted(k for k, v in known.items() if v is True and k.startswith(_INSTRUCTIONS))
    return " ".join(
        [
            torch.backends.cpu.get_cpu_capability(),
            _processor(),
            hashlib.sha256(" ".join(has).encode()).hexdigest()[:8],
            *(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("OPENBLAS_")),
            *([torch.cuda.get_device_name(0)] if torch.cuda.is_available() else []),
            *(f"{m.__name__}-{m.__version__}" for m in (torch, transformers, np, faiss)),
        ]
    )


def _processor() -> str:
    """Vendor, family and model."""
    table = Path("/proc/cpuinfo")
    if not table.exists():
        return f"{platform.system()}-{platform.machine()}"
    first = table.read_text(encoding="utf-8").split("\n\n")[0]
    facts = dict(x.replace("\t", "").split(": ", 1) for x in first.splitlines() if ": " in x)
    names = ("vendor_id", "cpu family", "model")
    return "-".join(facts[n] for n in names if n in facts) or platform.machine()
