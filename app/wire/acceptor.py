"""Accepts connections. What cannot be taken in yet stays in the system's queue; nothing in it is thrown away.

uvloop's own listeners empty that queue by closing connections when the process may open no more files, honest ones
among them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Callable

from app.wire.crowd import Crowd

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Most connections that are accepted before the event loop does something else."""
FILES_SPARED = 24
"""Files that connections leave to what answers them; more than `AT_ONCE`."""
REST_S = 0.1
"""Seconds until the next try when the process may open no more files, or the network is in trouble."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Listens on one socket until it is closed.

    Args:
        listener: the bound socket.
        protocol: makes the protocol of a connection.
        crowd: ends a connection for another when the process may open few more files.
        backlog: most connections in the system's queue.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol], *, crowd: Crowd, backlog: int
    ) -> None:
        self._listener = listener
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._protocol = protocol
        self._crowd = crowd
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._resting: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        listener.listen(backlog)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more. Connections that are open stay so."""
        if self._resting is None:
            self._loop.remove_reader(self._listener)
        else:
            self._resting.cancel()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # also what befell the network, which the next connection may be spared
                logger.debug("cannot accept: %s", error)
                if error.errno in _EXHAUSTED:
                    self._crowd.make_room()
                self._rest()
                return
            beginning = self._loop.create_task(self._begin(accepted))
            self._beginning.add(beginning)
            beginning.add_done_callback(self._beginning.discard)
            # the system gives out the lowest number that is free, so all below it are taken
            if accepted.fileno() >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_SPARED:
                self._crowd.make_room()
                return

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            await self._loop.connect_accepted_socket(self._protocol, accepted)
        except OSError as error:  # it is gone already
            logger.debug("a connection ended at once: %s", error)
            accepted.close()

    def _rest(self) -> None:
        self._loop.remove_reader(self._listener)
        self._resting = self._loop.call_later(REST_S, self._wake)

    def _wake(self) -> None:
        self._resting = None
        self._loop.add_reader(self._listener, self._accept)
