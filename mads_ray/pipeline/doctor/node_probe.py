"""Functions that run on the nodes while a cluster is checked.

Ray ships them by value, because a node may lack `mads_ray` or have another version of it. So this
module imports at its top only the standard library and Ray.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray


@contextmanager
def shipped_by_value() -> Iterator[None]:
    """In the block Ray sends functions of this module as code, not as a name to import."""
    here = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(here)
    try:
        yield
    finally:
        ray.cloudpickle.unregister_pickle_by_value(here)


def node_facts(packages: Sequence[str]) -> dict[str, Any]:
    """Versions, GPUs as torch sees them, authentication, and room: (free, total) in bytes."""
    temp = ray.get_runtime_context().get_temp_dir()
    shm = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    disk = shutil.disk_usage(temp)
    return {
        "versions": package_versions(packages),
        "gpus": _torch_gpus(),
        "auth": os.environ.get("RAY_AUTH_MODE", "disabled").lower(),
        "shm": None if shm is None else (shm.free, shm.total),
        "temp": (temp, disk.free, disk.total),
    }


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Versions by package, None for a missing one. For `mads_ray` it ends in a hash of its code."""
    found: dict[str, str | None] = {"python": platform.python_version(), "mads_ray": None}
    for package in packages:
        found[package] = None
        for name in ("faiss-cpu", "faiss-gpu") if package == "faiss" else (package,):
            try:
                found[package] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    # It may lie in the working directory of a job and not be installed.
    spec = importlib.util.find_spec("mads_ray")
    if spec is not None and spec.origin is not None:
        root, digest = os.path.dirname(spec.origin), hashlib.sha256()
        paths = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names]
        for path in sorted(p for p in paths if p.endswith(".py")):
            with open(path, "rb") as f:
                digest.update(os.path.relpath(path, root).encode() + b"\0" + f.read())
        try:
            version = importlib.metadata.version("mads_ray")
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        found["mads_ray"] = f"{version} (code {digest.hexdigest()[:8]})"
    return found


def _torch_gpus() -> list[str] | str:
    """Names of the GPUs, or why torch fails. It may crash, so it runs in a process of its own."""
    script = (
        "import json, torch; "
        "n = torch.cuda.device_count(); "
        "print(json.dumps([torch.cuda.get_device_name(i) for i in range(n)]))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=90
        )
        names: list[str] = json.loads(done.stdout.splitlines()[-1])
        return names
    except subprocess.TimeoutExpired:
        return "torch did not start within 90 s"
    except (IndexError, ValueError):  # it printed no list
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]


def reach_model(name: str) -> dict[str, Any]:
    """Find a model's configuration and tokenizer as a worker would; no weights are loaded."""
    try:
        from mads_ray.capture.model import load_tokenizer, locate, most_positions

        located = locate(name, None, "auto")
        most_positions(located, 1)
        load_tokenizer(located)
    except Exception as e:  # whatever it is, the driver must hear of it
        return {"error": (str(e).strip() or type(e).__name__).splitlines()[0]}
    return {"revision": located.identity.revision, "dtype": located.identity.dtype}


def sign(folder: str, token: str) -> str | None:
    """Read the driver's file in `folder` and write one named by this node.

    Returns None, or what went wrong. It never makes the folder: the driver made it.
    """
    try:
        with open(os.path.join(folder, "driver"), encoding="utf-8") as f:
            if f.read() != token:
                return "another folder than the driver's"
    except OSError as e:
        return f"not the folder that the driver sees ({e.strerror or type(e).__name__})"
    try:
        name = ray.get_runtime_context().get_node_id()
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(token)
    except OSError as e:
        return f"no write access ({e.strerror or type(e).__name__})"
    return None
