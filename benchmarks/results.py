"""Where benchmark results are kept, each with what is needed to repeat it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from mads_ray.doctor import versions_of

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("mads_ray", "ray", "torch", "transformers", "numpy", "numba", "faiss-cpu", "pyarrow")


def store(name: str, result: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json: the result, the command, the versions, the machine."""
    record = {
        "result": result,
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "versions": versions_of(_PACKAGES),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "?")
