"""URIs are stored with a run, so they must not hold credentials."""

from __future__ import annotations

from urllib.parse import urlsplit

from mads_ray.errors import CorpusError

_WORDS = ("secret", "password", "passwd", "token", "access_key", "credential", "signature", "sig=")


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
