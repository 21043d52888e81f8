"""Clients that hold connections, follow jobs over restarts, hang up, and never read."""

from __future__ import annotations

import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from benchmarks.faults.fault import Fault
from benchmarks.faults.stage import LONG, Stage

IDLE: Final = 300
STREAMS: Final = 40


def connect(stage: Stage, *, kept: bool = True) -> socket.socket:
    """A connection to the service, closed with the fault."""
    made = socket.create_connection(("127.0.0.1", stage.service.port), timeout=10)
    if kept:
        stage.closing.append(made)
    return made


def hold(number: int, first: bytes) -> Callable[[Stage], None]:
    """Open connections, send the beginning of something, and say no more."""

    def inject(stage: Stage) -> None:
        for _ in range(number):
            with suppress(OSError):  # to be turned away is an answer
                connect(stage).sendall(first)

    return inject


def follow(number: int, then: Callable[[Stage], object] | None = None, *, read: bool = True) -> Callable[[Stage], None]:
    """Follow the job over event streams, and then do something else."""

    def inject(stage: Stage) -> None:
        job_id = list(stage.jobs)[-1]
        request = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        for _ in range(number):
            with suppress(OSError):
                stream = connect(stage)
                if not read:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                stream.sendall(request)
        if then is not None:
            time.sleep(0.5)
            then(stage)

    return inject


def hang_up(number: int, sent: bytes) -> Callable[[Stage], None]:
    """Connect, send, and reset the connection; again and again."""

    def inject(stage: Stage) -> None:
        for _ in range(number):
            with suppress(OSError):
                made = connect(stage, kept=False)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                made.sendall(sent)
                made.close()

    return inject


def _killing(role: str, number: signal.Signals = signal.SIGKILL, *, first: bool = False) -> Callable[[Stage], object]:
    return lambda stage: stage.signal(role, number, first=first)


def resume(stage: Stage) -> None:
    """Let the broker go on."""
    stage.signal("broker", signal.SIGCONT)


_HALF_HEAD: Final = b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: "
_HALF_BODY: Final = (
    b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\nabc"
)
_HALF_UPLOAD: Final = (
    b"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 99999\r\n\r\n--b\r\nContent-Disposition: form-data; name=archive; filename=a.zip\r\n\r\nPK"
)
_UNREAD: Final = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200

CLIENTS: Final = (
    Fault("connections that say nothing", hold(IDLE, b""), job=False, uploads=True),
    Fault("connections that stop within the headers", hold(IDLE, _HALF_HEAD), job=False, uploads=True),
    Fault("connections that stop within the body", hold(IDLE, _HALF_BODY), job=False, quick=True),
    Fault("uploads that stop in the middle", hold(30, _HALF_UPLOAD), job=False, uploads=True),
    Fault("connections that ask and never read", hold(30, _UNREAD), job=False, uploads=True),
    Fault("connections that are reset at once", hang_up(500, b""), job=False),
    Fault("connections that are reset within the body", hang_up(300, _HALF_BODY), job=False),
    Fault("uploads that are reset in the middle", hang_up(60, _HALF_UPLOAD), job=False, uploads=True),
    Fault("event streams", follow(STREAMS), config=LONG, uploads=True),
    Fault("event streams that nobody reads", follow(STREAMS, read=False), config=LONG),
    Fault("event streams, and the broker is stopped", follow(STREAMS, _killing("broker", signal.SIGSTOP)), resume,
          lasts_s=5, uploads=True, quick=True),
    Fault("event streams, and the broker is killed", follow(STREAMS, _killing("broker"))),
    Fault("event streams, and the worker is killed", follow(STREAMS, _killing("worker"))),
    Fault("event streams, and a server is killed", follow(STREAMS, _killing("server", first=True)), breaks=True),
)  # fmt: skip
