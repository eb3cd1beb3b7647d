"""A command on a terminal of its own."""

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def on_a_terminal(*words):
    """(exit code, what a terminal got) of a command."""
    inner, outer = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mads_ray", *map(str, words)],
        stdin=outer,
        stdout=outer,
        stderr=outer,
        env=environment,
    )
    os.close(outer)
    shown = b""
    try:
        while part := os.read(inner, 1 << 16):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(inner)
    return process.wait(60), shown.replace(b"\r\n", b"\n").decode("utf-8", errors="replace")
