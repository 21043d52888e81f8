"""The Redis client that jobs and rollouts share: every call answers in time or raises one kind of error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, cast

import redis
from kombu.exceptions import LimitExceeded, OperationalError
from redis import exceptions as replies
from redis.backoff import NoBackoff
from redis.connection import UnixDomainSocketConnection
from redis.retry import Retry

from segp_cl.errors import KeepsightError

_SILENT: Final = (
    replies.ConnectionError,
    replies.TimeoutError,
    replies.InvalidResponse,  # something on the port that does not speak the protocol
    OSError,
    OperationalError,
    LimitExceeded,
)
_UNUSABLE: Final = (
    replies.OutOfMemoryError,
    replies.ReadOnlyError,
    replies.NoPermissionError,
    replies.ClusterError,
    replies.AskError,
    replies.TryAgainError,
    replies.ClusterCrossSlotError,
    replies.ExecAbortError,
)
# redis-py knows some codes as classes and cuts them off; the others, and those of a call inside a script, are text
_CODES: Final = (
    "READONLY|OOM|MISCONF|NOREPLICAS|LOADING|CLUSTERDOWN|MASTERDOWN|BUSY|NOAUTH|WRONGPASS|NOPERM|TRYAGAIN|DENIED|"
    "EXECABORT|UNBLOCKED|UNKILLABLE|NOPROTO|MOVED|ASK|CROSSSLOT|REDIRECT|IOERR|INPROG|FAILOVER"
)
_UNUSABLE_REPLY: Final = re.compile(
    rf"(?:^|[\s:]-?)(?:{_CODES})\s"
    r"|ACL failure in script|has no permissions to|Script killed by user"
    # whatever refuses the connection or the address, and a server that lacks a command
    r"|^(?:ERR )?(?:max number of clients|DB index is out of range|invalid DB index|SELECT is not allowed"
    r"|AUTH |Client sent AUTH|invalid password|unknown command|Protocol error|command not allowed when used memory)"
)


# redis-py counts an error under the port of its connection, and one over a unix socket has none
UnixDomainSocketConnection.port = None  # type: ignore[attr-defined]


class BrokerUnavailableError(KeepsightError):
    """The broker does not answer, or answers that it cannot serve now. Jobs cannot be read or changed until it does."""


def why_unavailable(error: BaseException) -> str | None:
    """Return why the broker cannot be used, or None if the error has another cause, such as a mistake in a script.

    One rule for the synchronous and the asynchronous client and for Celery's: a broker that answers with its own
    state (read-only, out of memory, loading, wrong password ...) is as good as one that is gone.
    """
    if isinstance(error, OperationalError) and isinstance(error.__cause__, replies.ResponseError):
        return why_unavailable(error.__cause__)
    if isinstance(error, _UNUSABLE) or (
        isinstance(error, replies.ResponseError) and _UNUSABLE_REPLY.search(str(error))
    ):
        return f"the broker answers with an error: {error}"
    if isinstance(error, _SILENT):
        return f"the broker does not answer: {error}"
    return None


@contextmanager
def reaching() -> Iterator[None]:
    """Convert the errors of a broker that cannot be used.

    Raises:
        BrokerUnavailableError: see `why_unavailable`.
    """
    try:
        yield
    except Exception as error:
        why = why_unavailable(error)
        if why is None:
            raise
        raise BrokerUnavailableError(why) from error


class RedisClient:
    """Runs commands and scripts on one broker. Thread-safe.

    Every method raises `BrokerUnavailableError` when the broker cannot be reached within `timeout_s`, or cannot serve.

    Args:
        redis_url: `redis://host:port/db`.
        timeout_s: seconds to wait for a connection or an answer.
    """

    def __init__(self, redis_url: str, *, timeout_s: float = 3.0) -> None:
        self.redis_url = redis_url
        self._redis = redis.Redis.from_url(
            redis_url,
            decode_responses=True,
            encoding_errors="replace",  # damaged text is a damaged job, not a broker that is gone
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),  # once: a pooled connection may be older than a restarted broker
        )

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _script(self, script: str, keys: Sequence[str], arguments: Sequence[str]) -> str:
        """Run a script and return its result; all scripts here return text."""
        with reaching():
            return cast("str", self._redis.eval(script, len(keys), *keys, *arguments))
