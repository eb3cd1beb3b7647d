"""Check a Ray cluster before a run: nodes, versions, GPUs, model, output, memory and disks.

Every node answers for itself, in a small task that reserves no CPU.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mads_ray.config import RayConfig
from mads_ray.doctor import Finding
from mads_ray.errors import ConfigError, MadsRayError, reason_of
from mads_ray.pipeline.doctor.findings import (
    MODEL_REMEDY,
    OUTPUT_REMEDY,
    authentication,
    disk_findings,
    gpu_findings,
    memory_findings,
    model_findings,
    output_findings,
    version_findings,
)
from mads_ray.pipeline.doctor.node_probe import (
    node_facts,
    package_versions,
    reach_model,
    shipped_by_value,
    sign,
)
from mads_ray.pipeline.runtime.session import pool_shape, ray_session

_CONNECT_S = 10
_FACTS_S = 120  # a cold node starts Python and imports torch
_MODEL_S = 300  # smollm2-135m is converted once on each machine
_SIGNED_S = 10  # until the driver sees on a shared file system what nodes wrote
_PACKAGES = ("ray", "torch", "transformers", "numpy", "pyarrow", "faiss")
_OUTPUT_ROOM = 5 * 2**30  # states of 10^6 rows of smollm2-135m take about 3 GB


@dataclass(frozen=True, slots=True)
class Node:
    """A node as Ray sees it; `object_store` in bytes."""

    id: str
    name: str
    cpus: float
    gpus: float
    object_store: float

    @property
    def works(self) -> bool:
        """Whether our tasks and actors can run there: all of them need a CPU."""
        return self.cpus >= 1


def check_cluster(
    address: str | None, model: str | None = None, output: str | None = None
) -> Iterator[Finding]:
    """Join the cluster (default: RAY_ADDRESS, else a local one) and yield findings.

    Every node looks for `model` and writes to `output`.
    """
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    with ExitStack() as stack:
        try:
            _knock(target)
            stack.enter_context(ray_session(RayConfig(address=address)))
        except (OSError, RuntimeError, ValueError, RayError) as e:
            reason = " ".join(str(e).split())[:500]
            remedy = "compare the address, RAY_AUTH_MODE and the versions with those of the head"
            yield Finding("cluster", f"cannot join {target}: {reason}", False, True, remedy)
            return
        nodes = alive_nodes(ray.nodes())
        yield from _size(nodes)
        facts, silent = ask(nodes, node_facts, (_PACKAGES,), _FACTS_S)
        for name, reason in silent.items():
            remedy = "look at its raylet.log, or take it out of the cluster"
            yield Finding("node", f"{name}: {reason}", False, True, remedy)
        yield authentication([f["auth"] for f in facts.values()])
        workers = [n for n in nodes if n.works and n.name in facts]
        yield from version_findings(
            package_versions(_PACKAGES), {n.name: facts[n.name]["versions"] for n in workers}
        )
        yield from gpu_findings({n.name: (n.gpus, facts[n.name]["gpus"]) for n in workers})
        able = [n for n in workers if facts[n.name]["versions"]["mads_ray"] is not None]
        if model is not None:
            yield from _model(model, able)
        if output is not None:
            yield from _output(output, workers)
        yield from memory_findings(
            {n.name: (n.object_store, facts[n.name]["shm"]) for n in nodes if n.name in facts}
        )
        yield from disk_findings({name: f["temp"] for name, f in facts.items()})


def _knock(address: str) -> None:
    """Raise OSError where nothing listens. Ray by itself would try for a quarter of an hour."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def alive_nodes(table: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Nodes of `ray.nodes()`, named by address, or by address and id where two share one."""
    alive = [n for n in table if n["Alive"]]
    addresses = [n["NodeManagerAddress"] for n in alive]
    nodes = []
    for n in alive:
        address, has = n["NodeManagerAddress"], n["Resources"]
        name = address if addresses.count(address) == 1 else f"{address}/{n['NodeID'][:8]}"
        cpus, gpus, store = (has.get(k, 0.0) for k in ("CPU", "GPU", "object_store_memory"))
        nodes.append(Node(n["NodeID"], name, cpus, gpus, store))
    return sorted(nodes, key=lambda n: n.name)


def ask(
    nodes: Sequence[Node], function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run `function(*args)` once on every node.

    Returns by node name the answers, and for nodes without an answer the reason. A node has
    `timeout_s` seconds to answer.
    """
    pending = {}
    with shipped_by_value():
        task = ray.remote(num_cpus=0, max_retries=0)(function)
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            pending[task.options(scheduling_strategy=there).remote(*args)] = node.name
    if pending:
        ray.wait(list(pending), num_returns=len(pending), timeout=timeout_s)
    answers, silent = {}, {}
    for reference, name in pending.items():
        try:
            answers[name] = ray.get(reference, timeout=0)
        except TimeoutError:
            silent[name] = f"no answer within {timeout_s:g} s"
            ray.cancel(reference, force=True)
        except RayError as e:
            silent[name] = reason_of(e, 300, line=-1)
    return answers, silent


def _size(nodes: Sequence[Node]) -> Iterator[Finding]:
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    yield Finding("cluster", f"{len(nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs")
    try:
        shape = pool_shape(RayConfig(), sys.maxsize)
    except ConfigError as e:
        yield Finding("workers", str(e), False, True, "start nodes with more CPUs")
    else:
        detail = (
            f"{shape.workers} for capture, each with {shape.cpus} CPU(s) and {shape.gpus:g} GPU(s)"
        )
        yield Finding("workers", detail)


def _model(name: str, nodes: Sequence[Node]) -> Iterator[Finding]:
    from mads_ray.capture.model import inspect_model  # torch

    try:
        inspect_model(name, None)  # as a run does before it starts its pool
    except MadsRayError as e:
        yield Finding("model", f"driver: {e}".splitlines()[0], False, True, MODEL_REMEDY)
    answers, silent = ask(nodes, reach_model, (name,), _MODEL_S)
    answers |= {name: {"error": reason} for name, reason in silent.items()}
    with_gpu = {n.name for n in nodes if n.gpus}
    yield from model_findings(name, answers, with_gpu or set(answers))


def _output(output: str, nodes: Sequence[Node]) -> Iterator[Finding]:
    if "://" in output:
        detail = f"{output}: must be a folder that every node sees, not a URI"
        yield Finding("output", detail, False, True)
        return
    folder = Path(output).expanduser().absolute()
    try:
        with _meeting(folder) as (meeting, token):
            free = shutil.disk_usage(meeting).free
            answers, wrong = ask(nodes, sign, (str(meeting), token), _FACTS_S)
            wrong |= {name: problem for name, problem in answers.items() if problem is not None}
            signed = [n for n in nodes if n.name not in wrong]
            unseen = _unseen(meeting, token, [n.id for n in signed])
            wrong |= {n.name: "the driver does not see its file" for n in signed if n.id in unseen}
    except OSError as e:
        yield Finding("output", f"driver: {folder}: {e.strerror or e}", False, True, OUTPUT_REMEDY)
        return
    yield from output_findings(str(folder), [n.name for n in nodes], wrong)
    room = free >= _OUTPUT_ROOM
    advice = "" if room else "states take about 3 kB an example (30 layers of 64 neurons)"
    yield Finding("output disk", f"{free / 2**30:.1f} GiB free", room, remedy=advice)


@contextmanager
def _meeting(output: Path) -> Iterator[tuple[Path, str]]:
    """Make a folder in `output` with a file `driver` that holds a token; remove it at the end."""
    made = [p for p in (output, *output.parents) if not p.exists()]
    output.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    meeting = output / f".mads_ray_doctor_{token[:8]}"
    try:
        meeting.mkdir()
        (meeting / "driver").write_text(token, encoding="utf-8")
        yield meeting, token
    finally:
        shutil.rmtree(meeting, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # another process put a file there
                folder.rmdir()


def _unseen(meeting: Path, token: str, names: Sequence[str]) -> set[str]:
    """Names of the nodes whose files the driver cannot read."""
    unseen, deadline = set(names), time.monotonic() + _SIGNED_S
    while True:
        for name in sorted(unseen):
            with suppress(OSError):
                if (meeting / name).read_text(encoding="utf-8") == token:
                    unseen.remove(name)
        if not unseen or time.monotonic() > deadline:
            return unseen
        time.sleep(0.5)
