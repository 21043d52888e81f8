"""The broker's address, which redis-py and Celery write differently."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit


def celery_url(redis_url: str) -> str:
    """Return a broker's address as Celery reads it: it has a scheme of its own for unix sockets."""
    split = urlsplit(redis_url)
    if split.scheme != "unix":
        return redis_url
    query = [("virtual_host" if name == "db" else name, value) for name, value in parse_qsl(split.query)]
    return f"redis+socket://{split.netloc}{split.path}?{urlencode(query)}"
