"""A real Ray cluster of several nodes on one machine: each node in a network namespace of its own.

The namespaces hang on a bridge that lives in one more namespace, so that nothing of the machine's
own network is touched. Needs root and `ip`. Every process of a node is in its namespace, which is
how a node is killed without touching any other Ray. Traffic stays within the namespaces.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

NET = "10.77.0"
BIN = Path(sys.executable).parent
STORE = 120_000_000


def possible():
    """Whether this machine lets us make namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"mr-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    return subprocess.run(["ip", "netns", "del", name], check=False).returncode == 0


class Cluster:
    """A head without CPUs, so that only the driver runs there, and workers by name."""

    def __init__(self, dashboard=False, **environment):
        self.id = secrets.token_hex(2)
        self.folder = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))  # sockets need a short path
        self.dashboard, self._last = dashboard, 1
        self.environment = (
            {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MADS_RAY_TEST"))}
            | {
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(16),
                "HF_HUB_OFFLINE": "1",
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "OMP_NUM_THREADS": "1",
            }
            | environment
        )
        self._hub = f"mr{self.id}-hub"
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "set", "lo", "up")
        _ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "br0", "up")
        self._names = {}
        try:
            self._names["head"] = self._join("head", 1)
            self.start_head()
        except BaseException:
            self.close()
            raise

    # --- nodes ---

    def start_head(self):
        """Also after `kill("head")`."""
        args = ["--head", f"--node-ip-address={NET}.1", "--port=6379", "--num-cpus=0"]
        args += ["--include-dashboard=true" if self.dashboard else "--include-dashboard=false"]
        self._ray_start("head", args)

    def add(self, name, cpus=2, store=STORE, **environment):
        """A worker node; also one that was killed."""
        if name not in self._names:
            self._last += 1
            self._names[name] = self._join(name, self._last)
        args = [f"--address={NET}.1:6379", f"--node-ip-address={self._names[name]}"]
        args += [f"--num-cpus={cpus}", f"--labels=node={name}"]
        self._ray_start(name, args, store, environment)

    def _ray_start(self, name, args, store=STORE, environment=None):
        shutil.rmtree(self.folder / name, ignore_errors=True)
        command = ["ray", "start", *args, f"--object-store-memory={store}", "--disable-usage-stats"]
        command += [f"--temp-dir={self.folder / name}"]
        started = self.run(name, command, **(environment or {}))
        output, _ = started.communicate(timeout=120)
        assert started.returncode == 0, output

    def kill(self, name):
        """Every process of a node at once, as when its power goes."""
        for _ in range(5):
            pids = self.pids(name)
            for pid in pids:
                _signal(pid, signal.SIGKILL)
            if not pids:
                return
            time.sleep(0.2)

    def pids(self, name, having=""):
        """Processes of a node whose title or command holds a word."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self._space(name)], capture_output=True, text=True, check=True
        )
        return [pid for pid in map(int, listed.stdout.split()) if having in _title(pid)]

    def signal(self, name, having, number):
        """Send a signal to the one process of a node whose title holds this."""
        (pid,) = self.pids(name, having)
        _signal(pid, number)

    def cut(self, name):
        """Take a node's cable out."""
        _ip("-n", self._hub, "link", "set", self._port(name), "down")

    def restore(self, name):
        """And in again."""
        _ip("-n", self._hub, "link", "set", self._port(name), "up")

    # --- programs ---

    def run(self, name, command, output=subprocess.PIPE, cwd=None, **environment):
        """Start a program on a node, in a process group of its own."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self._space(name), *map(str, command)],
            env=self.environment | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            start_new_session=True,
        )

    def close(self):
        """Kill every process of every node and take the namespaces away."""
        for name in self._names:
            self.kill(name)
        for space in [*map(self._space, self._names), self._hub]:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _space(self, name):
        return f"mr{self.id}-{name}"

    def _port(self, name):
        return f"p{self.id}-{name}"

    def _join(self, name, last):
        space, inside = self._space(name), f"v{self.id}-{name}"
        _ip("netns", "add", space)
        _ip("-n", space, "link", "set", "lo", "up")
        peer = ["peer", "name", self._port(name), "netns", self._hub]
        _ip("link", "add", inside, "netns", space, "type", "veth", *peer)
        _ip("-n", space, "addr", "add", f"{NET}.{last}/24", "dev", inside)
        _ip("-n", space, "link", "set", inside, "up")
        _ip("-n", self._hub, "link", "set", self._port(name), "master", "br0")
        self.restore(name)
        return f"{NET}.{last}"


def _ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


def _title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _signal(pid, number):
    with suppress(ProcessLookupError):
        os.kill(pid, number)
