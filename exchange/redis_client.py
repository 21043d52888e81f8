"""The Redis client that jobs and rollouts share: every call answers in time or raises one kind of error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, cast

import redis
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from segp_cl.errors import KeepsightError

_UNAVAILABLE: Final = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OperationalError)


class BrokerUnavailableError(KeepsightError):
    """The broker does not answer. Jobs cannot be read or changed until it does."""


class RedisClient:
    """Runs commands and scripts on one broker. Thread-safe.

    Every method raises `BrokerUnavailableError` when the broker cannot be reached within `timeout_s`.

    Args:
        redis_url: `redis://host:port/db`.
        timeout_s: seconds to wait for a connection or an answer.
    """

    def __init__(self, redis_url: str, *, timeout_s: float = 3.0) -> None:
        self.redis_url = redis_url
        self._redis = redis.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),  # once: a pooled connection may be older than a restarted broker
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _script(self, script: str, keys: Sequence[str], arguments: Sequence[str]) -> str:
        """Run a script and return its result; all scripts here return text."""
        with self._reaching():
            return cast("str", self._redis.eval(script, len(keys), *keys, *arguments))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except _UNAVAILABLE as error:
            raise BrokerUnavailableError(f"the broker does not answer: {error}") from error
