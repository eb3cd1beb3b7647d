"""A local session in a network namespace of its own, and another user of the machine beside it."""

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
import ray

import mads_ray

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
THEIRS = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "of-a-cluster" * 3}


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
        environment["PYTHONPATH"] = str(Path(mads_ray.__file__).parents[1])
        site = Path(ray.__file__).parents[1]
        environment |= {"OUTSIDE": str(self.outside), "BASE": sys.base_prefix, "SITE": str(site)}
        self.log, self.run_log = folder / "log", folder / "log.jsonl"
        command = [sys.executable, Path(__file__).with_name("victim.py"), self.run_log]
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
        told = json.loads(self.hear())
        self.gcs, self.worker, self.environment = told["gcs"], told["worker"], told["driver"]
        self.token_file = Path(self.worker["RAY_AUTH_TOKEN_PATH"])
        self.token = self.token_file.read_text()
        self.folder = self.token_file.parent
        self.processes = psutil.Process(self.driver.pid).children(recursive=True)
        self.processes.append(psutil.Process(self.driver.pid))

    def listening(self):
        """(process, address, port) of every TCP listener; no process where one is ending."""
        found = []
        for line in self.ss("-Hltnp"):
            address, port = line.split()[3].rsplit(":", 1)
            process = re.search(r'\(\("([^"]+)"', line)
            found.append((process[1] if process else "", address, int(port)))
        return found

    def sockets(self):
        """Unix sockets that the session listens at."""
        paths = [line.split()[4] for line in self.ss("-Hlx")]
        return [p for p in paths if p.startswith(str(self.folder))]

    def ss(self, *flags):
        command = ["nsenter", "-t", str(self.driver.pid), "--net", "ss", *flags]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        return found.stdout.splitlines()

    def attack(self, step, token=None, certificate=False, **more):
        """What a step of attack.py prints."""
        tried = self.start_attack(step, token, certificate, **more)
        try:
            return tried.communicate(timeout=400)[0]
        finally:
            self._kill_nobody(tried)

    def start_attack(self, step, token=None, certificate=False, **more):
        told = more | {
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
        if certificate:
            copies = [self.outside / name for name in ("certificate.pem", "key.pem")]
            for copy in copies:
                shutil.copy(self.folder / copy.name, copy)
                os.chown(copy, NOBODY, NOBODY)
            environment |= {"RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": str(copies[0])}
            environment |= {
                f"RAY_TLS_SERVER_{name}": str(copy)
                for name, copy in zip(("CERT", "KEY"), copies, strict=True)
            }
        python = "base/bin/python{}.{}".format(*sys.version_info)
        command = ["nsenter", "-t", str(self.driver.pid), "--net", "--mount"]
        command += ["--setgid", str(NOBODY), "--setuid", str(NOBODY)]
        command += [str(self.outside / python), str(self.outside / "attack.py"), step]
        return subprocess.Popen(
            command,
            env=environment,
            cwd=self.outside,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def squatted(self, certificate):
        """What somebody hears at the port of a worker that was killed."""
        self.say("kill")
        pid = int(self.hear())
        (line,) = [line for line in self.ss("-Hltnp") if f"pid={pid}," in line]
        freed = int(line.split()[3].rpartition(":")[2])
        os.kill(pid, signal.SIGKILL)
        squatter = self.start_attack("squat", certificate=certificate, freed=freed)
        try:
            told = ""
            while "TAKEN" not in told:
                line = squatter.stdout.readline()
                assert line, told
                told += line
            self.say("call")
            assert self.hear() == "called"
            return told + squatter.communicate(timeout=60)[0]
        finally:
            self._kill_nobody(squatter)

    def hear(self):
        """What the session says next; Ray prints there, too."""
        for line in self.driver.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError(self.log.read_text())

    def say(self, line):
        self.driver.stdin.write(f"{line}\n")
        self.driver.stdin.flush()

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
