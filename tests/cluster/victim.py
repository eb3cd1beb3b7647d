"""A local session at work, for others to attack. A line on its standard input: lose a worker."""

import json
import logging
import os
import sys
from contextlib import suppress

import ray

from mads_ray import runlog
from mads_ray.config import RayConfig, RunConfig
from mads_ray.pipeline.current_run import beginning
from mads_ray.pipeline.runtime.session import ray_session, record_cluster


class Worker:
    def environment(self):
        return dict(os.environ)

    def put(self):
        return [ray.put(b"x" * 200_000)]


@ray.remote
def length(value):
    return len(value)


def call(worker, reference):
    """Call a process that has died, in two ways."""
    for pending in (worker.put.remote(), length.remote(reference)):
        with suppress(ray.exceptions.RayError):
            ray.get(pending, timeout=4)


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    recording = runlog.recording(sys.argv[1], **beginning("run", RunConfig(output="o")))
    with recording, ray_session(RayConfig()):
        record_cluster()
        worker = ray.remote(Worker).remote()
        environment = ray.get(worker.environment.remote())
        gcs = ray.get_runtime_context().gcs_address
        told = {"gcs": gcs, "worker": environment, "driver": dict(os.environ)}
        print(">", json.dumps(told), flush=True)
        for _ in sys.stdin:
            doomed = ray.remote(Worker).remote()
            (pid,) = ray.get(doomed.__ray_call__.remote(lambda self: [os.getpid()]))
            (reference,) = ray.get(doomed.put.remote())
            print(">", pid, flush=True)
            sys.stdin.readline()
            call(doomed, reference)
            print("> called", flush=True)
        ray.get(worker.environment.remote())
