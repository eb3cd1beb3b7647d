"""A local Ray: closed while it runs, gone without a trace, and no matter to what comes after."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mads_ray.pipeline.runtime.local import _LONGEST_PARENT, _parent

# A process of its own: the tests share one Ray in this one.
TWICE = """
import os, pathlib, sys
import psutil, ray
from ray._raylet import get_authentication_mode
from mads_ray.config import RayConfig
from mads_ray.errors import ConfigError, IncompleteError
from mads_ray.pipeline.runtime.session import ray_session

def ray_variables():
    return {k: v for k, v in os.environ.items() if k.startswith("RAY_AUTH")}

def addresses():
    here = psutil.Process()
    processes = [here, *here.children(recursive=True)]
    found = [c for p in processes for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert len(found) >= 8, found
    return {c.laddr.ip for c in found}

@ray.remote
def token():
    return pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])

before, tokens = ray_variables(), set()
for error in (None, ConfigError("a setting"), IncompleteError("Ray gave up"), KeyboardInterrupt()):
    try:
        with ray_session(RayConfig()):
            assert addresses() <= {"127.0.0.1", "::ffff:127.0.0.1"}, addresses()
            assert ray_variables() == before
            path = ray.get(token.remote())
            assert path.parent.parent == pathlib.Path(sys.argv[1])
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
            tokens.add(path.read_text())
            if error:
                raise error
    except BaseException as e:
        assert e is error, e
    kept = isinstance(error, IncompleteError)
    assert (path.parent / "r/session_latest/logs/gcs_server.out").exists() == kept
    assert path.parent.exists() == kept
    assert not path.exists()
    assert ray_variables() == before
    assert int(get_authentication_mode()) == 0  # as the environment says
assert len(tokens) == 4
"""


def test_sessions_in_a_row_are_closed_and_leave_nothing_but_logs_of_a_failure():
    # As long a path as Ray's sockets allow; pytest's own folders are longer.
    folder = Path("/tmp") / f"mr-{os.getpid()}-".ljust(18, "x")
    assert len(str(folder)) == _LONGEST_PARENT
    folder.mkdir()
    environment = os.environ | {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_AUTH_TOKEN": "of-a-cluster" * 3,
    }
    try:
        ended = subprocess.run(
            [sys.executable, "-c", TWICE, str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        (kept,) = folder.iterdir()
        assert f"Ray's own logs are kept in {kept}" in ended.stderr
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("variables", "parent"),
    [
        ({}, "/tmp"),
        ({"TMPDIR": "/scratch"}, "/scratch"),
        ({"TMPDIR": "/scratch", "RAY_TMPDIR": "/fast/"}, "/fast"),
        ({"TMPDIR": "/scratch/of/a/job/whose/path/is/long"}, "/tmp"),
        ({"TMPDIR": f"/{'s' * 22}"}, f"/{'s' * 22}"),
        ({"TMPDIR": f"/{'s' * 23}"}, "/tmp"),
    ],
)
def test_the_folder_lies_where_sockets_can(monkeypatch, variables, parent):
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _parent() == parent
