"""Who owns a journal: which process, of which job, on which node; and how such a process ended.

A name is job-node-host-process.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import ray

_NODE = 12  # digits of a node's id
_ANSWER_S = 3
_TOLD = 240  # characters


def this_process() -> str:
    """The name under which this process writes journals: job, node, host and process."""
    job = node = "none"
    if ray.is_initialized():
        context = ray.get_runtime_context()
        job, node = context.get_job_id(), context.get_node_id()[:_NODE]
    return f"{job}-{node}-{socket.gethostname().split('.')[0]}-{os.getpid()}"


def ended_by_itself(owner: str) -> bool:
    """Whether a process that did not finish its work died or hung over it.

    Not so where it was stopped with its job, or lost with its node: that says nothing about the
    rows it had.
    """
    me = this_process()
    job, node, *_ = owner.split("-")
    if owner == me or job != me.split("-")[0]:
        return False
    return any(n["Alive"] and n["NodeID"].startswith(node) for n in ray.nodes())


def lost_with_nodes() -> Callable[[str], bool] | None:
    """Whether a process of this job was on a node that is dead now; None where no node is dead."""
    nodes = ray.nodes() if ray.is_initialized() else []
    dead = {n["NodeID"][:_NODE] for n in nodes if not n["Alive"]}
    if not dead:
        return None
    mine = this_process().split("-")[0]

    def is_lost(owner: str) -> bool:
        job, node, *_ = owner.split("-")
        return job == mine and node in dead

    return is_lost


def why_ended(owner: str) -> str:
    """What Ray says of the end of a process, in a few words; "" where it cannot be asked.

    It is asked through its state API, which needs the dashboard: a local Ray has none.
    """
    from ray.util.state import list_workers  # slow to import

    _, node, *_, pid = owner.split("-")
    try:
        found = list_workers(
            address=ray.get_runtime_context().gcs_address,
            filters=[("pid", "=", pid)],
            detail=True,
            timeout=_ANSWER_S,
            raise_on_missing_output=False,
        )
    except Exception:  # the API server is away, or is none: no reason to stop
        return ""
    ends = [w.exit_detail for w in found if w.node_id.startswith(node) and w.exit_detail]
    # Then Ray lists causes that may be.
    return " ".join(ends[-1].split()).split(" Some common causes")[0][:_TOLD] if ends else ""
