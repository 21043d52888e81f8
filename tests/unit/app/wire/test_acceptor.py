from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.wire.acceptor import FILES_SPARED
from tests.unit.app.wire.wire import Running

SILENT = 120


@contextmanager
def files(more: int) -> Iterator[None]:
    """This process may open so many more files. What needs a file of the test itself must be open already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    gaps = [os.open("/dev/null", os.O_RDONLY)]
    while gaps[-1] < highest:  # the limit is of numbers: what earlier tests left open above a gap would count twice
        gaps.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (gaps[-1] + 1 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for gap in gaps:
            os.close(gap)


CROWD = """
import socket, sys
port, silent = int(sys.argv[1]), int(sys.argv[2])
sys.stdin.read()
held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(silent)]
for turn in range(20):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as honest:
        honest.sendall(b"GET /ok HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        print(honest.makefile("rb").readline().decode().strip(), flush=True)
"""


def test_honest_clients_are_answered_though_silent_ones_hold_all_files(run_with: Callable[..., Running]) -> None:
    run = run_with(connections=1000)
    command = [sys.executable, "-c", CROWD, str(run.port), str(SILENT)]
    # begun before the limit, which it would inherit
    crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with files(FILES_SPARED + 20):
        said, _ = crowd.communicate(timeout=60)
    assert said.splitlines() == ["HTTP/1.1 200 OK"] * 20
    assert "made-room" in run.ended


def test_connections_wait_for_a_file(run_with: Callable[..., Running]) -> None:
    run = run_with()
    with socket.socket() as waits:
        waits.settimeout(1.0)
        with files(0):
            waits.connect(("127.0.0.1", run.port))  # the system takes it
            waits.sendall(b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            with pytest.raises(TimeoutError):
                waits.recv(100)
        waits.settimeout(30)
        assert waits.recv(100).startswith(b"HTTP/1.1 200 OK")
