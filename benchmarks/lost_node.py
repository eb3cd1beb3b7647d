"""A node is lost and nothing has room for its actor: Ray Data's actor pool beside ours.

Ray Data by itself with three retries a task and with retries without end (its default), as ingest
uses it (what is left is streamed again when it gives up), and the pool that capture uses.

  python benchmarks/lost_node.py [--items 24] [--patience 240] [--store lost_node]

Two real nodes of one CPU in network namespaces (root needed), one actor on each, items of two
seconds. After a few items one node is killed. Each gets the same work on a cluster of its own. The
last line of the output is JSON: seconds from the loss to the end of the run, null where it had not
ended when the patience was over, with the items that were done by then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results import store

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO / "tests" / "cluster"))
ITEM_S = 2.0
BEFORE = 4
WAYS = ("ray_data_3_retries", "ray_data_for_ever", "streamed_again", "pool")
ADDRESS = "10.77.0.1:6379"  # "auto" would find any Ray of this machine

DRIVER = """
import sys, time, ray
from mads_ray.pipeline.runtime.actor_pool import ActorPool, WorkStatus
from mads_ray.pipeline.runtime import data_stream as streaming
ray.init(address="{address}", log_to_driver=False, logging_level="ERROR")

def set_up():
    def work(item):
        time.sleep({item_s})
        return item
    return work

items = [{{"n": n}} for n in range({items})]
if sys.argv[1] != "pool":
    if sys.argv[1] != "streamed_again":
        streaming._STREAMS = 1
        streaming._RETRIES = 3 if sys.argv[1] == "ray_data_3_retries" else -1
    results = streaming.stream("items", items, set_up, (), workers=2)
else:
    nothing = (dict, lambda i: 0, lambda i: None, lambda i: None, 600.0)
    watch = WorkStatus(lambda i: str(i["n"]), *nothing)
    results = ActorPool("items", items, set_up, (), lambda left: (2, 1, 0.0), watch).run()
for result in results:
    print("DONE", result["n"], flush=True)
"""


def lose_a_node(which: str, items: int, patience_s: float) -> dict[str, Any]:
    """Seconds from the loss to the last item, and the items that were done."""
    from netns import Cluster

    cluster = Cluster()
    try:
        for name in ("a", "b"):
            cluster.add(name, cpus=1)
        code = DRIVER.format(item_s=ITEM_S, items=items, address=ADDRESS)
        driver = cluster.run("head", [sys.executable, "-c", code, which], cwd=REPO)
        done = [next(line for line in driver.stdout if "DONE" in line) for _ in range(BEFORE)]
        cluster.kill("b")
        lost = time.monotonic()
        try:
            output, _ = driver.communicate(timeout=patience_s)
            seconds = round(time.monotonic() - lost, 1)
        except subprocess.TimeoutExpired:
            cluster.kill("head")
            output, seconds = driver.communicate()[0], None
        done += [line for line in output.splitlines() if line.startswith("DONE")]
        return {"seconds": seconds, "done": len(set(done)), "items": items}
    finally:
        cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--patience", type=float, default=240)
    parser.add_argument("--store")
    options = parser.parse_args()
    result = {which: lose_a_node(which, options.items, options.patience) for which in WAYS} | {
        "item_s": ITEM_S,
        "patience_s": options.patience,
    }
    if options.store:
        store(options.store, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
