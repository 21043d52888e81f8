"""uvicorn with this server's connections, and a stop that ends in time."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from app.listening import own_sockets
from app.settings import Settings
from app.wire.acceptor import Acceptor
from app.wire.crowd import Crowd
from app.wire.limits import Limits
from app.wire.protocol import Connection

logger = logging.getLogger(__name__)

_CANCEL_AFTER_S = 0.5  # what does not notice that its client is gone is cancelled
CLOSING_S = 4.0
"""Seconds after the grace in which the services must be closed."""


class Server(uvicorn.Server):
    """A server of one application.

    Args:
        app: the ASGI application.
        settings: address, limits of connections, and how long requests in hand have when the server is stopped.
        count: called with the reason for each connection that the server ends by itself.
        limits: of connections; None: those of the settings.
        started: called once the application is ready, before the first connection.
    """

    def __init__(
        self,
        app: Any,
        settings: Settings,
        *,
        count: Callable[[str], None] = lambda reason: None,
        limits: Limits | None = None,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self.crowd = Crowd(limits or Limits.of(settings), count)
        self._grace_s = settings.stop_grace_s
        self._acceptors: list[Acceptor] = []
        self._tell_started = started
        self._end: threading.Timer | None = None
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=cast(type[Connection], partial(Connection, crowd=self.crowd)),
                ws="none",
                backlog=self.crowd.limits.backlog,
                log_config=None,
                access_log=False,  # the logger app.access records more
                timeout_graceful_shutdown=cast(int, settings.stop_grace_s + _CANCEL_AFTER_S),
                server_header=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections from these sockets; by default from those of the settings."""
        await super().startup(sockets=[])
        if not self.started:
            return
        self._tell_started()
        config = self.config
        try:
            listeners = await own_sockets(config.host, config.port) if sockets is None else sockets
        except OSError as error:
            logger.error("cannot listen on %s port %d: %s", config.host, config.port, error.strerror or error)
            self.started = False
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        protocol = partial(
            Connection, config, self.server_state, self.lifespan.state, asyncio.get_running_loop(), crowd=self.crowd
        )
        self._acceptors = [
            Acceptor(listener, protocol, crowd=self.crowd, backlog=config.backlog) for listener in listeners
        ]
        for acceptor in self._acceptors:
            logger.info("listening on %s port %d", *acceptor.address)

    @property
    def ports(self) -> list[int]:
        """The ports that it accepts connections on."""
        return [acceptor.address[1] for acceptor in self._acceptors]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: requests in hand are finished as long as the grace lasts, and nothing new is begun."""
        for acceptor in self._acceptors:
            acceptor.close()
        self.crowd.stop()
        end = asyncio.get_running_loop().call_later(self._grace_s, self.crowd.abandon)
        await super().shutdown(sockets)
        end.cancel()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until it is stopped."""
        try:
            await super().serve(sockets)
        finally:
            if self._end is not None:
                self._end.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. What does not end by itself, such as a thread that waits for a disk, is not waited for."""
        if self._end is None:
            self._end = threading.Timer(self._grace_s + CLOSING_S, _end_now)
            self._end.daemon = True
            self._end.start()
        super().handle_exit(sig, frame)


def _end_now() -> None:
    waiting = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    logger.error("the server did not stop in time; it is ended with these threads: %s", ", ".join(waiting))
    os._exit(1)
