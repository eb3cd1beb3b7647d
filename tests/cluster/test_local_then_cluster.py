"""Local sessions and a cluster in one process, as in a notebook: each authenticates by its own."""

import sys

import pytest
from netns import NET, Cluster, possible

# Ray reads mode and token once a process, so nothing but a real cluster shows that we read again.
SCRIPT = f"""
import os, ray
from mads_ray.config import RayConfig
from mads_ray.pipeline.runtime.session import ray_session

@ray.remote
def token():
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return open(path).read() if path else os.environ.get("RAY_AUTH_TOKEN")

seen = []
for address in (None, "{NET}.1:6379", None, "{NET}.1:6379"):
    with ray_session(RayConfig(address=address)):
        seen.append((ray.get_runtime_context().gcs_address, ray.get(token.remote())))
(a, first), (b, theirs), (c, second), (d, again) = seen
assert b == d == "{NET}.1:6379" and theirs == again == os.environ.get("RAY_AUTH_TOKEN"), seen
assert a.startswith("127.0.0.1:") and c.startswith("127.0.0.1:"), seen
assert len({{first, theirs, second}}) == 3 and len(first) == len(second) == 64, seen
print("all four")
"""


@pytest.mark.parametrize(
    "environment", [{}, {"RAY_AUTH_MODE": "disabled"}], ids=["token", "open cluster"]
)
def test_local_sessions_and_a_cluster_in_turn(environment):
    if not possible():
        pytest.skip("network namespaces need root and ip")
    cluster = Cluster(**environment)
    try:
        cluster.add("one", cpus=1)
        driver = cluster.run("head", [sys.executable, "-c", SCRIPT])
        output, _ = driver.communicate(timeout=400)
    finally:
        cluster.close()
    assert driver.returncode == 0, output
    assert output.endswith("all four\n")
