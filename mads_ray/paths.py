"""Paths and URIs as a user gives them. Both are stored with a run, and read again elsewhere."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from mads_ray.errors import ConfigError, CorpusError

_WORDS = ("secret", "password", "passwd", "token", "access_key", "credential", "signature", "sig=")


def absolute(path: str) -> str:
    """A path that is the same from any folder, with ~ expanded; a URI stays as it is.

    Raises ConfigError for an empty path, which would become the working folder.
    """
    if not path:  # of a variable that is not set
        raise ConfigError("an empty path names nothing")
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def refuse_credentials(path: str) -> None:
    """Raise CorpusError for a URI with a password, key or token in it, without repeating it."""
    if "://" not in path:
        return
    uri = urlsplit(path)
    user = uri.netloc.rpartition("@")[0]
    # For the hub a name alone would be a token; abfs://container@account is no secret.
    secret = bool(user) if uri.scheme == "hf" else ":" in user
    if secret or any(word in uri.query.lower() for word in _WORDS):
        raise CorpusError(
            f"{uri.scheme}://...: a URI is stored with the run and must not hold "
            "credentials; put them into the environment"
        )
