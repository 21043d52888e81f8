"""The sockets that a server accepts connections from: passed on to it, shared with others, or its own."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

LISTEN_FDS: Final = "KEEPSIGHT_LISTEN_FDS"


def inherited_sockets() -> list[socket.socket]:
    """Return the bound sockets that the process which started this one passed on; none if it passed none.

    All its servers have the same, so the kernel gives a connection to whichever accepts it: one that is stopped accepts
    none. It listens when the first server does, and goes on while one is replaced.
    """
    numbers = os.environ.pop(LISTEN_FDS, "")
    return [_adopted(int(number)) for number in numbers.split(",") if number]


def shared_socket(host: str, port: int) -> socket.socket:
    """Bind a socket to an address that others may bind too; the kernel spreads connections among the listeners.

    uvicorn listens once the app has started, so a server that is still loading its model gets no connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


async def own_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind a socket to every address of a host, as asyncio's servers do: families that the machine lacks are left out.

    Raises:
        OSError: the host has no address, or one is taken.
    """
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    try:
        return [socket.socket(fileno=os.dup(made.fileno())) for made in server.sockets]
    finally:
        server.close()


def _adopted(number: int) -> socket.socket:
    os.set_inheritable(number, False)  # a process that outlives this server must not keep the port
    return socket.socket(fileno=number)
