"""A Ray that this process starts for itself, closed to everyone else on the machine.

Whoever may talk to a Ray may run code as its user. So a local one listens on the loopback only,
every call and request needs a token that it alone has, and its sockets, logs and port files lie in
a folder that only its user may enter (Ray alone makes them writable for all). The token alone would
not do: when a process dies, others of the session go on calling its port, and whoever takes that
port would be sent the token. So both ends of a call also show a certificate of the session.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants

from mads_ray.errors import IncompleteError, MadsRayError
from mads_ray.pipeline.runtime.certificate import write_certificate

log = logging.getLogger(__name__)
_RAYLET: Any = _raylet  # its types leave these out

# The path of a Unix socket has at most 107 bytes. Our folder's name takes 18 of these and
# "/r/session_<time>_<process>/sockets/plasma_store" 66.
_LONGEST_PARENT = 107 - 18 - 66


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Start a closed Ray for the block. `options` go to `ray.init`.

    What the environment says of authentication is for clusters and has no say here; it is back
    when Ray has started. Where Ray itself fails, its logs are kept and the terminal says where.
    """
    parent = _parent()
    os.makedirs(parent, exist_ok=True)  # as Ray does
    folder = Path(tempfile.mkdtemp(prefix="mads-ray-", dir=parent))  # mode 0700
    kept = False
    try:
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        write_certificate(folder / "certificate.pem", folder / "key.pem")
        with _environment(_settings(folder)), _on_loopback():
            _read_authentication_again()
            # Ray opens its folder to all, so it gets one inside ours.
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=str(folder / "r"),
                **options,
            )
        assert _RAYLET.get_authentication_mode() == _RAYLET.AuthenticationMode.TOKEN
        yield
    except Exception as e:
        kept = isinstance(e, IncompleteError) or not isinstance(e, MadsRayError)
        raise
    finally:
        ray.shutdown()
        _read_authentication_again()  # as the environment has it: a cluster may be joined next
        if kept and (folder / "r").exists():
            for secret in ("token", "key.pem"):
                (folder / secret).unlink(missing_ok=True)
            log.warning("Ray's own logs are kept in %s", folder / "r/session_latest/logs")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _settings(folder: Path) -> dict[str, str | None]:
    """Environment of Ray's processes; None takes a variable away."""
    return {
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        # Every pool of Ray Data 2.60 prints a C++ "error" about actor restarts that is none.
        "RAY_BACKEND_LOG_LEVEL": os.environ.get("RAY_BACKEND_LOG_LEVEL", "fatal"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_AUTH_TOKEN": None,  # it would win over the file
        "RAY_ENABLE_K8S_TOKEN_AUTH": None,  # and this would ask Kubernetes instead
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "certificate.pem"),
        "RAY_TLS_SERVER_KEY": str(folder / "key.pem"),
        "RAY_TLS_CA_CERT": str(folder / "certificate.pem"),
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # see _on_loopback
    }


def _parent() -> str:
    """Where Ray would make its folder, or /tmp where the sockets' paths would get too long."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if parent := os.environ.get(name):
            if len(os.fsencode(os.path.abspath(parent))) <= _LONGEST_PARENT:
                return os.path.abspath(parent)
            log.info("%s is too long a path for Ray's sockets: /tmp instead", name)
    return "/tmp"


@contextmanager
def _environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray binds what it starts to the node's address, and that is the loopback where Ray knows no
    clusters, as on macOS and Windows. (Asked for 127.0.0.1, it takes the machine's address.)

    Its processes hear of it by their environment, which this one read when it imported Ray.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _read_authentication_again() -> None:
    """Ray keeps mode, token and certificate for the life of a process.

    The mode goes first: threads of a Ray that ends may still ask for the token.
    """
    _RAYLET.Config.initialize("")
    _RAYLET.AuthenticationTokenLoader.instance().reset_cache()
