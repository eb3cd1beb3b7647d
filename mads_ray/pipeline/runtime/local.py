"""A Ray that this process starts for itself, closed to everyone else on the machine.

Whoever may talk to a Ray may run code as its user. So a local one listens on the loopback only, and
every call and request needs a secret token. Its sockets, logs and port files lie in a folder that
only its user may enter; Ray by itself makes them writable for all. The token alone is not enough:
when a process dies, others of the session continue to call its port, and whoever takes that port
would receive the token. So both ends of a call also show a certificate of the session.
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
_RAYLET: Any = _raylet  # its type stubs lack what is used here

# The path of a Unix socket has at most 107 bytes. Our folder's name takes 18 of these and
# "/r/session_<time>_<process>/sockets/plasma_store" 66.
_LONGEST_PARENT = 107 - 18 - 66


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Start a closed Ray for the block. `options` go to `ray.init`.

    Environment variables about authentication are for clusters: they are not used here, and are
    restored when Ray has started. Where Ray itself fails, its logs are kept, and a warning says
    where.
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
            # Ray lets everyone into its folder, so that lies inside ours.
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
        _read_authentication_again()  # of the environment: a cluster may be joined next
        if kept and (folder / "r").exists():
            for secret in ("token", "key.pem"):
                (folder / secret).unlink(missing_ok=True)
            log.warning("Ray's own logs are kept in %s", folder / "r/session_latest/logs")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _settings(folder: Path) -> dict[str, str | None]:
    """Environment variables for Ray's processes; None removes one."""
    return {
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        # Every pool of Ray Data 2.60 prints a C++ "error" about actor restarts. It is not one.
        "RAY_BACKEND_LOG_LEVEL": os.environ.get("RAY_BACKEND_LOG_LEVEL", "fatal"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_AUTH_TOKEN": None,  # Ray would prefer it to the file
        "RAY_ENABLE_K8S_TOKEN_AUTH": None,  # Ray would ask Kubernetes instead
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "certificate.pem"),
        "RAY_TLS_SERVER_KEY": str(folder / "key.pem"),
        "RAY_TLS_CA_CERT": str(folder / "certificate.pem"),
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # see _on_loopback
    }


def _parent() -> str:
    """The folder in which Ray makes its own. /tmp where paths of sockets would be too long."""
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
    """Make Ray listen on the loopback, in the block.

    Ray binds its servers to the node's address. That is the loopback where Ray has no clusters, as
    on macOS and Windows, so this switches clusters off. (Asked for 127.0.0.1, Ray takes the
    machine's address.) The processes of Ray read a variable of the environment; this process read
    it when it imported Ray, so the constant is changed.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _read_authentication_again() -> None:
    """Make Ray read mode and token again: it keeps them for the life of a process.

    The mode comes first, because threads of a Ray that ends may still ask for the token.
    """
    _RAYLET.Config.initialize("")
    _RAYLET.AuthenticationTokenLoader.instance().reset_cache()
