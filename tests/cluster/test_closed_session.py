"""Nobody else on the machine gets at a local run: another user tries, in a network namespace.

Each attack is also made with the session's token, where it must succeed: so it fails for want of
the token and of nothing else.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from netns import possible

NOBODY = 65534
# One node with an address that others could reach, were anything bound to it. And Python where
# another user can run it: its own place may be closed to others, which would end every attack.
SPACE = """
set -e
mount --bind "$BASE" "$OUTSIDE/base"
mount --bind "$SITE" "$OUTSIDE/site"
ip link set lo up
ip link add v0 type veth peer name v1
ip addr add 10.77.9.1/24 dev v0
ip link set v0 up
ip link set v1 up
ip route add default via 10.77.9.2
exec "$@"
"""
VICTIM = """
import json, logging, os, sys
logging.basicConfig(level=logging.DEBUG)
import ray
from mads_ray import runlog
from mads_ray.config import RayConfig, RunConfig
from mads_ray.pipeline.recorded import beginning, record_cluster
from mads_ray.pipeline.session import ray_session

class Worker:
    def environment(self):
        return dict(os.environ)

if __name__ == "__main__":
    recording = runlog.recording(sys.argv[1], **beginning("run", RunConfig(output="o")))
    with recording, ray_session(RayConfig()):
        record_cluster()
        worker = ray.remote(Worker).remote()
        environment = ray.get(worker.environment.remote())
        gcs = ray.get_runtime_context().gcs_address
        told = {"gcs": gcs, "worker": environment, "driver": dict(os.environ)}
        print(json.dumps(told), flush=True)
        sys.stdin.read()
        ray.get(worker.environment.remote())
"""
THEIRS = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "of-a-cluster" * 3}
# What answers without a token (docs/clusters.md lists it): whether a process is well, the names of
# its methods, counts of connections, and pages of metrics.
OPEN = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
OPEN |= {"grpc.channelz.v1.Channelz"}
METRICS = {"python", "ray::DashboardA"}  # Ray's monitor and dashboard head, and the node's agent


class Session:
    """A local session at work, in a process and a network of its own."""

    def __init__(self, folder):
        # What a user has set for a cluster has no say.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | THEIRS
        # The attacker's files, where it can read and write.
        self.outside = Path(tempfile.mkdtemp(prefix="mrx", dir="/tmp"))
        shutil.copy(Path(__file__).with_name("attack.py"), self.outside)
        self.mounts = [self.outside / "base", self.outside / "site"]
        for path in self.mounts:
            path.mkdir()
        for path in (self.outside, self.outside / "attack.py"):
            os.chown(path, NOBODY, NOBODY)
        site = Path(ray.__file__).parents[1]
        environment |= {"OUTSIDE": str(self.outside), "BASE": sys.base_prefix, "SITE": str(site)}
        self.log, self.run_log = folder / "log", folder / "log.jsonl"
        command = [sys.executable, "-c", VICTIM, self.run_log]
        with self.log.open("w") as log:
            self.driver = subprocess.Popen(
                ["unshare", "--net", "--mount", "sh", "-c", SPACE, "sh", *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        told = self.driver.stdout.readline()
        assert told, self.log.read_text()
        told = json.loads(told)
        self.gcs, self.worker, self.environment = told["gcs"], told["worker"], told["driver"]
        self.token_file = Path(self.worker["RAY_AUTH_TOKEN_PATH"])
        self.token = self.token_file.read_text()
        self.folder = self.token_file.parent
        self.processes = psutil.Process(self.driver.pid).children(recursive=True)
        self.processes.append(psutil.Process(self.driver.pid))

    def listening(self):
        """(process, address, port) of every TCP listener in the namespace."""
        lines = self.ss("-Hltnp")
        found = [re.search(r'\s(\S+):(\d+)\s.*\(\("([^"]+)"', line) for line in lines]
        assert all(found), lines
        return [(m[3], m[1], int(m[2])) for m in found]

    def sockets(self):
        """Unix sockets that the session listens at."""
        paths = [line.split()[4] for line in self.ss("-Hlx")]
        return [p for p in paths if p.startswith(str(self.folder))]

    def ss(self, *flags):
        command = ["nsenter", "-t", str(self.driver.pid), "--net", "ss", *flags]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        return found.stdout.splitlines()

    def attack(self, step, token=None):
        """What a step of attack.py prints."""
        told = {
            "gcs": self.gcs,
            "names": {port: name for name, _, port in self.listening()},
            "sockets": self.sockets(),
            "session": str(self.folder),
            "pids": [p.pid for p in self.processes if p.is_running()],
            "folder": str(self.outside),
        }
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.outside / "site"),
            "LD_LIBRARY_PATH": str(self.outside / "base/lib"),
            "HOME": str(self.outside),
            "ATTACK": json.dumps(told),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_NUM_REDIS_GET_RETRIES": "3",
            "RAY_gcs_server_request_timeout_seconds": "5",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
        }
        if token is not None:
            environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        python = "base/bin/python{}.{}".format(*sys.version_info)
        command = ["nsenter", "-t", str(self.driver.pid), "--net", "--mount"]
        command += ["--setgid", str(NOBODY), "--setuid", str(NOBODY)]
        command += [str(self.outside / python), str(self.outside / "attack.py"), step]
        tried = subprocess.Popen(
            command,
            env=environment,
            cwd=self.outside,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            return tried.communicate(timeout=400)[0]
        finally:
            self._kill_nobody(tried)

    def _kill_nobody(self, tried):
        with suppress(ProcessLookupError):
            os.killpg(tried.pid, signal.SIGKILL)
        for process in self.inside():
            if process.uids().real == NOBODY:
                process.kill()

    def inside(self):
        """Every process of the namespace."""
        here = os.stat(f"/proc/{self.driver.pid}/ns/net").st_ino
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                if os.stat(f"/proc/{process.pid}/ns/net").st_ino == here:
                    yield process

    def close(self):
        """End it as a run ends; what goes on after that is killed."""
        for process in list(self.inside()):
            if process.uids().real == NOBODY:
                process.kill()
        inside = list(self.inside())
        self.driver.stdin.close()
        try:
            self.driver.wait(timeout=120)
        finally:
            for process in inside:
                with suppress(psutil.Error):
                    process.kill()
            for path in self.mounts:
                path.rmdir()  # mounted in the namespace alone: here it is empty
            shutil.rmtree(self.outside)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    if not possible() or any(shutil.which(c) is None for c in ("ss", "nsenter", "unshare")):
        pytest.skip("another user in a network namespace needs root, ip, ss, nsenter and unshare")
    made = Session(tmp_path_factory.mktemp("victim"))
    try:
        yield made
    finally:
        made.close()
    assert made.driver.returncode == 0, made.log.read_text()
    assert not made.folder.exists()


def test_everything_listens_on_the_loopback_only(session):
    listening = session.listening()
    assert {name for name, _, _ in listening} >= {"gcs_server", "raylet"}
    assert {address for _, address, _ in listening} <= {"127.0.0.1", "[::ffff:127.0.0.1]"}


@pytest.mark.parametrize("step", ["list_keys", "submit", "job", "join"])
def test_nobody_else_gets_in(session, step):
    assert "REACHED" not in session.attack(step)


@pytest.mark.parametrize("step", ["list_keys", "job"])
def test_nobody_gets_in_with_another_token(session, step):
    assert "REACHED" not in session.attack(step, "0" * 64)


@pytest.mark.parametrize(
    ("step", "got"), [("list_keys", "keys"), ("job", "as uid 0"), ("join", "as uid 0")]
)
def test_with_the_token_the_same_attack_succeeds(session, step, got):
    told = session.attack(step, session.token)
    assert re.search(f"REACHED.* {got}", told), told


def answers(told):
    """(process, port, path, answer) of what `calls` prints."""
    found = json.loads(told.splitlines()[-1])
    return [(*key.split(" ", 2), answer) for key, answer in found.items()]


def test_every_call_needs_the_token(session):
    found = answers(session.attack("calls"))
    metrics = {port for _, port, path, answer in found if (path, answer) == ("/metrics", 200)}
    assert {name for name, port, *_ in found if port in metrics} <= METRICS
    others = [row for row in found if row[1] not in metrics]
    pages = [(path, answer) for *_, path, answer in others if isinstance(answer, int)]
    assert {path for path, answer in pages if answer != 401} == {"/api/healthz"}
    calls = {path: answer for *_, path, answer in others if isinstance(answer, str)}
    closed = {p for p in calls if p.split("/")[1] not in OPEN}
    assert {calls[path] for path in closed} == {"UNAUTHENTICATED"}
    # Of every process: the GCS, the raylet (twice), workers, the agent.
    for call in (
        "InternalKVGcsService/InternalKVKeys",
        "NodeManagerService/RequestWorkerLease",
        "ObjectManagerService/Push",
        "CoreWorkerService/PushTask",
        "ReporterService/GetTraceback",
        "syncer.RaySyncer/StartSync",
    ):
        assert f"/ray.rpc.{call}" in closed
    reached = {int(port) for _, port, *_ in found}
    assert reached == {port for _, _, port in session.listening()}


def test_with_the_token_calls_succeed(session):
    found = answers(session.attack("calls", session.token))
    answered = {path for *_, path, answer in found if answer == "OK"}
    assert "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo" in answered
    assert not {"UNAUTHENTICATED", 401, 403} & {answer for *_, answer in found}


def test_nobody_else_reads_a_thing(session):
    assert len(session.sockets()) == 2
    assert "REACHED" not in session.attack("local")


def test_it_is_the_folder_that_nobody_else_enters(session):
    session.folder.chmod(0o755)
    try:
        assert f"REACHED {session.folder}" in session.attack("local")
    finally:
        session.folder.chmod(0o700)


def test_the_token_is_in_one_private_file(session):
    assert len(session.token) == 64
    assert session.token_file.stat().st_mode & 0o777 == 0o600
    assert session.folder.stat().st_mode & 0o777 == 0o700
    token = session.token.encode()
    files = [p for p in session.folder.rglob("*") if p.is_file() and not p.is_symlink()]
    assert len(files) > 10
    files += [session.log, session.run_log]
    files += [Path(f"/proc/{p.pid}/environ") for p in session.inside()]
    files += list(Path("/proc").glob("[0-9]*/cmdline"))
    holding = []
    for path in files:
        with suppress(OSError):  # a process that has ended
            holding += [path] if token in path.read_bytes() else []
    assert holding == [session.token_file]


def test_the_environment_is_as_it_was(session):
    assert session.worker["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in session.worker
    after = {k: v for k, v in session.environment.items() if k.startswith("RAY_AUTH")}
    assert after == THEIRS
