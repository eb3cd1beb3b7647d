"""Compare the answers of a cluster's nodes and yield findings. Ray is not needed here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mads_ray.doctor import Finding

MODEL_REMEDY = (
    "a folder must be at the same path on all nodes; a hub name needs network or a filled "
    "cache on each (HF_HOME on a shared disk), and HF_TOKEN if it is gated"
)
OUTPUT_REMEDY = (
    "name a folder of a file system that the driver and all nodes share (NFS, EFS, Lustre)"
)
_STRICT = ("mads_ray", "ray", "python")  # with another one workers fail or capture other states
_FULL = 0.95  # Ray stores no more objects on a disk that is this full


def authentication(modes: Sequence[str]) -> Finding:
    """Whether the cluster asks for tokens, by RAY_AUTH_MODE of every node."""
    if modes and all(mode == "token" for mode in modes):
        return Finding("authentication", "by token")
    remedy = (
        "`ray get-auth-token --generate`, then start every node and driver with "
        "RAY_AUTH_MODE=token and that token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    )
    return Finding(
        "authentication", "off: who reaches its ports runs code here", False, remedy=remedy
    )


def version_findings(
    driver: Mapping[str, str | None], nodes: Mapping[str, Mapping[str, str | None]]
) -> Iterator[Finding]:
    """Yield one finding for all packages that agree, and one for each difference."""
    alike = []
    for package, here in driver.items():
        places = defaultdict(list)
        for name, versions in nodes.items():
            there = versions[package]
            if _public(there) != _public(here):
                places[there].append(name)
        if not places:
            alike.append(f"{package} {here}")
        for there, names in places.items():
            where = _where(names, nodes)
            if there is None:
                remedy = "install the driver's version there: pip, the image, or a runtime_env"
                detail = f"missing on {where}, {here} on the driver"
                yield Finding(package, detail, False, True, remedy)
            else:
                remedy = "give the driver and all nodes one image or environment"
                detail = f"{there} on {where}, {here} on the driver"
                yield Finding(package, detail, False, _is_fatal(package, here, there), remedy)
    if nodes and alike:
        yield Finding("versions", f"as on the driver: {', '.join(alike)}")


def _public(version: str | None) -> str | None:
    """The version without its build: torch may be +cpu on the head and +cu130 on the nodes."""
    return version if version is None else version.partition("+")[0]


def _is_fatal(package: str, here: str | None, there: str) -> bool:
    if package == "python" and here is not None:  # a pickled function needs the same minor version
        return here.split(".")[:2] != there.split(".")[:2]
    return package in _STRICT


def gpu_findings(nodes: Mapping[str, tuple[float, list[str] | str]]) -> Iterator[Finding]:
    """Compare the GPUs that Ray offers on each node with those (or the error) of torch there.

    Ray may be told to offer fewer than there are. If it offers more, workers fail.
    """
    kinds = defaultdict(list)
    for name, (by_ray, by_torch) in nodes.items():
        if isinstance(by_torch, str):
            remedy = "install a build of torch that starts there, with CUDA where there are GPUs"
            detail = f"{name}: Ray sees {by_ray:g}, torch fails: {by_torch}"
            yield Finding("gpu", detail, False, True, remedy)
        elif len(by_torch) > by_ray:
            remedy = "fine if meant (`ray start --num-gpus`), else the rest of them stay idle"
            detail = f"{name}: Ray sees {by_ray:g}, torch {len(by_torch)}"
            yield Finding("gpu", detail, False, remedy=remedy)
        elif len(by_torch) < by_ray:
            remedy = "check torch's CUDA build, CUDA_VISIBLE_DEVICES and `ray start --num-gpus`"
            detail = f"{name}: Ray sees {by_ray:g}, torch {len(by_torch)}"
            yield Finding("gpu", detail, False, True, remedy)
        else:
            counted = f"{len(by_torch)} x {', '.join(sorted(set(by_torch)))}"
            kinds[counted if by_torch else "none"].append(name)
    for kind, names in kinds.items():
        yield Finding("gpu", f"{kind} on {_where(names, nodes)}")


def model_findings(
    model: str, nodes: Mapping[str, dict[str, Any]], capturing: set[str]
) -> Iterator[Finding]:
    """Whether all nodes find one revision, and those in `capturing` run it in one precision."""
    places = defaultdict(list)
    for name, answer in nodes.items():
        if "error" in answer:
            places[answer["error"]].append(name)
    for reason, names in places.items():
        where = _where(names, nodes)
        yield Finding("model", f"{where}: {reason}", False, True, MODEL_REMEDY)
    found = {name: a for name, a in nodes.items() if "error" not in a}
    for key, among, remedy in (
        ("revision", set(found), "give all nodes the same files, or pin one with --revision"),
        ("dtype", capturing, "fix the precision of the run: --set capture.dtype=float32"),
    ):
        kinds = defaultdict(list)
        for name in found:
            if name in among:
                kinds[found[name][key]].append(name)
        if len(kinds) > 1:
            each = "; ".join(f"{kind} on {_where(names, nodes)}" for kind, names in kinds.items())
            yield Finding("model", f"{key} differs: {each}", False, True, remedy)
    if found and not places:
        revision = next(iter(found.values()))["revision"]
        yield Finding("model", f"{model} ({revision}): reached from {_where(list(found), nodes)}")


def output_findings(
    folder: str, nodes: Collection[str], wrong: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield what is `wrong` with the folder on some nodes, or that all nodes can write to it."""
    places = defaultdict(list)
    for name, problem in wrong.items():
        places[problem].append(name)
    for problem, names in places.items():
        detail = f"{folder}: {_where(names, nodes)}: {problem}"
        yield Finding("output", detail, False, True, OUTPUT_REMEDY)
    if not wrong:
        detail = f"{folder}: one folder, written from {_where(list(nodes), nodes)}"
        yield Finding("output", detail)


def memory_findings(
    nodes: Mapping[str, tuple[float, tuple[int, int] | None]],
) -> Iterator[Finding]:
    """Compare the bytes of each node's object store with (free, total) of its /dev/shm, if any."""
    for name, (store, shm) in nodes.items():
        if shm is not None and shm[1] < store:
            detail = f"{name}: /dev/shm has {_gib(shm[1])}, the object store wants {_gib(store)}"
            remedy = "more shared memory (docker --shm-size), or `ray start --object-store-memory`"
            yield Finding("object store", detail, False, remedy=remedy)
    if nodes:
        detail = f"at least {_gib(min(store for store, _ in nodes.values()))} on each node"
        free = [shm[0] for _, shm in nodes.values() if shm is not None]
        if free:
            detail += f"; {_gib(min(free))} or more free in /dev/shm"
        yield Finding("object store", detail)


def disk_findings(nodes: Mapping[str, tuple[str, int, int]]) -> Iterator[Finding]:
    """Check the disk of Ray's session and spilled objects. By node: (folder, free, total) bytes."""
    for name, (folder, free, total) in nodes.items():
        if free < (1 - _FULL) * total:
            detail = f"{name}: {folder} is over {_FULL:.0%} full ({_gib(free)} free)"
            remedy = "free some, or start Ray with --temp-dir on another disk"
            yield Finding("temp disk", detail, False, remedy=remedy)
    if nodes:
        least, (folder, free, _) = min(nodes.items(), key=lambda item: item[1][1])
        yield Finding("temp disk", f"{_gib(free)} or more free (least on {least}, {folder})")


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _where(names: Sequence[str], all_names: Collection[str]) -> str:
    """A few names, or the words for all of them."""
    if len(names) == len(all_names) > 1:
        return f"all {len(names)} nodes"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
