"""Celery's transport over a real broker: what a lost connection leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import transport as transports
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.message import Message

from tests.valkey import start_valkey
from worker import transport


@pytest.mark.parametrize(
    "tell_an_end",
    [Message.ack, Message.reject, lambda message: message.reject(requeue=True)],
    ids=["done", "refused", "back to the queue"],
)
def test_a_connection_lost_while_a_messages_end_is_told_is_noticed(
    tmp_path: Path, tell_an_end: Callable[[Message], Any]
) -> None:
    """The message still holds the only place, so nothing is read that could tell of the loss."""
    transports.get_transport_cls("redis")  # as any connection that was made before
    transport.install()
    server = start_valkey(tmp_path)
    try:
        connection: Any = Connection(f"redis://127.0.0.1:{server.port}/0")  # type: ignore[no-untyped-call]
        channel = connection.channel()
        queue: Any = Queue("q", routing_key="q")(channel)  # type: ignore[no-untyped-call]
        queue.declare()
        connection.Producer(channel).publish({}, routing_key="q", serializer="json")
        channel.do_restore = False  # nor at the end of the process, when there is no broker
        channel.basic_qos(prefetch_count=1)
        assert channel.qos.can_consume()
        message = queue.get(no_ack=False)
        assert not channel.qos.can_consume()
    finally:
        server.stop()
    lost = connection.connection_errors
    with pytest.raises(lost):
        tell_an_end(message)
    with pytest.raises(lost):  # what Celery meets next, and connects anew for
        channel.qos.can_consume()
