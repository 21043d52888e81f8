"""The limits of connections, and how many of the process's files they may take."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Self

from app.settings import Settings

FILES_KEPT = 80
"""Files left to the store, the spool, Redis, the logs and the libraries; about 40 of them are open at rest."""
MOST_CONNECTIONS = 10_000
MAX_TARGET_BYTES = 16 * 1024
MAX_HEADERS = 100
MAX_PIPELINED = 32
"""Most requests of one connection that may wait for the one before."""


@dataclass(frozen=True)
class Limits:
    """What a connection may do, and how many may be open.

    Attributes:
        connections: most connections that are served at once.
        backlog: most connections that the system accepts before the server sees them.
        lingering: most connections that were answered and closed, but are still read from.
        header_bytes: most bytes of a request line with its headers, and of whatever else is no body.
        header_timeout_s: a request's head must be complete this long after its first byte, or after the connection.
        idle_timeout_s: how long a connection may stay open without a request.
        stall_timeout_s: the window in which a body, or an answer, must move by `window_bytes`.
        window_bytes: bytes that a body, or an answer, must move in each window.
    """

    connections: int
    backlog: int
    lingering: int
    header_bytes: int
    header_timeout_s: float
    idle_timeout_s: float
    stall_timeout_s: float
    window_bytes: float

    @classmethod
    def of(cls, settings: Settings, *, files: int | None = None) -> Self:
        """Return the limits that the settings ask for, within the files that the process may open.

        Args:
            settings: the server's.
            files: how many files the process may open; None asks the system.
        """
        files = open_files_limit() if files is None else files
        # a connection takes a file, and its upload another; those that wait to be accepted or closed take one each
        waiting = min(1024, max(8, files // 16))
        most = max(8, (files - FILES_KEPT - 2 * waiting) // 2)
        return cls(
            connections=settings.max_connections or min(MOST_CONNECTIONS, most),
            backlog=waiting,
            lingering=waiting,
            header_bytes=settings.max_header_bytes,
            header_timeout_s=settings.header_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            stall_timeout_s=settings.stall_timeout_s,
            window_bytes=settings.stall_timeout_s * settings.min_bytes_per_s,
        )


def open_files_limit() -> int:
    """Raise the number of files that this process may open to what the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # some systems allow less than they say
            return soft
    return 1_000_000 if hard == resource.RLIM_INFINITY else hard
