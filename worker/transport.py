"""Celery's transport over Redis, which outlives messages that are none and a broker that answers with errors.

Celery's own ends the worker on both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

from kombu import transport
from kombu.transport import redis
from redis.exceptions import ConnectionError as GoneError
from redis.exceptions import ResponseError

from exchange.redis_client import why_unavailable

logger = logging.getLogger(__name__)


class QoS(redis.QoS):
    """Lets Celery connect anew after an error of the broker: a message whose end could not be told holds a place.

    Celery logs such an error and goes on. With its only place taken it then listens to no connection, so it would not
    even learn that it has none.
    """

    def ack(self, delivery_tag: str) -> None:
        with self._telling_an_end():
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        with self._telling_an_end():
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]

    @contextmanager
    def _telling_an_end(self) -> Iterator[None]:
        try:
            yield
        except self.channel.connection_errors as error:
            self.channel.troubled = self.channel.troubled or why_unavailable(error) or str(error)
            raise

    def can_consume(self) -> bool:
        if self.channel.troubled is not None:
            why, self.channel.troubled = self.channel.troubled, None
            raise GoneError(why)
        return bool(super().can_consume())  # type: ignore[no-untyped-call]


class Channel(redis.Channel):
    """A channel that outlives what is not JSON, or not a message, and errors that are the broker's own.

    Attributes:
        troubled: why the broker could not serve a call since the last connection.
    """

    QoS = QoS
    troubled: str | None = None

    def _connparams(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(*arguments, **options)  # type: ignore[no-untyped-call]
        parameters["connection_class"] = self._heeding_errors(parameters["connection_class"])
        return parameters

    def _heeding_errors(self, connection: type[Any]) -> type[Any]:
        """Return a connection that counts as lost when the broker answers that it cannot serve."""
        channel = self

        class Heeding(connection):  # type: ignore[misc]
            def read_response(self, *arguments: Any, **options: Any) -> Any:
                try:
                    return super().read_response(*arguments, **options)
                except ResponseError as error:
                    if (why := why_unavailable(error)) is None:
                        raise
                    channel.troubled = why
                    raise GoneError(why) from error

        return Heeding

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # it has left the queue already
            logger.error("a message in the queue is none and was dropped: %s: %s", type(error).__name__, error)
            raise Empty from error


class Transport(redis.Transport):
    """The transport with this channel."""

    Channel = Channel


def install() -> None:
    """Use this transport for every address of a Redis in this process, also where kombu has looked its own up."""
    for alias, path in transport.TRANSPORT_ALIASES.items():
        if path == "kombu.transport.redis:Transport":
            transport.TRANSPORT_ALIASES[alias] = f"{__name__}:Transport"
            transport._transport_cache.pop(alias, None)
