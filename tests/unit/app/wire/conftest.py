"""A real server on a real socket around a small application: it echoes bodies, and can be made to wait."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from app.settings import Settings
from app.wire.limits import Limits
from app.wire.server import Server
from tests.waiting import wait_until

LIMITS = Limits(
    connections=50,
    backlog=64,
    lingering=8,
    header_bytes=8192,
    header_timeout_s=0.4,
    idle_timeout_s=0.6,
    stall_timeout_s=0.4,
    window_bytes=400,
)


class Echo:
    """Answers with what it saw. `/held` waits for `go`, `/large` sends 64 MiB, `/early` reads no body."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._lifespan(receive, send)
            return
        self.begun += 1
        body = b""
        more = scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/held":
            while not self.go.is_set():
                await asyncio.sleep(0.01)
        if scope["path"] == "/large":
            await self._large(send)
            return
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        seen = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "headers": headers,
            "body": body.decode("latin-1"),
        }
        answer = json.dumps(seen).encode()
        length = (b"content-length", str(len(answer)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": answer})

    async def _large(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1024):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await send({"type": "http.response.body"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


@dataclass
class Reply:
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Running:
    """A server that runs."""

    server: Server
    echo: Echo
    ended: list[str]
    thread: threading.Thread
    port: int = 0
    opened: list[socket.socket] = field(default_factory=list)

    def connect(self, timeout_s: float = 20) -> socket.socket:
        """Open a connection, which is closed with the test."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)
        self.opened.append(made)
        return made

    def ask(self, *parts: bytes) -> Reply:
        """Send bytes on a connection of their own and return the answer."""
        with closing(self.connect()) as client:
            for part in parts:
                client.sendall(part)
            return read_reply(client)

    def answers(self) -> bool:
        """Return whether an honest request is answered."""
        return self.ask(b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status == 200


def read_reply(client: socket.socket, *, head: bool = False) -> Reply:
    """Read one response. Raises `EOFError` where the connection ends instead."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += _some(client)
    before, _, body = raw.partition(b"\r\n\r\n")
    lines = before.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    if status == 100:
        client_rest = _Rest(client, body)
        return read_reply(client_rest)  # type: ignore[arg-type]
    length = 0 if head else int(headers.get("content-length", 0))
    while len(body) < length:
        body += _some(client)
    if len(body) > length:
        _PUSHED[client.fileno()] = body[length:]
    return Reply(status, headers, body[:length])


_PUSHED: dict[int, bytes] = {}


def _some(client: socket.socket) -> bytes:
    pushed = _PUSHED.pop(client.fileno(), b"")
    data = pushed or client.recv(65_536)
    if not data:
        raise EOFError("the connection ended before the answer was complete")
    return data


class _Rest:
    """A socket with bytes that were read already."""

    def __init__(self, client: socket.socket, rest: bytes) -> None:
        self._client = client
        if rest:
            _PUSHED[client.fileno()] = rest

    def fileno(self) -> int:
        return self._client.fileno()

    def recv(self, size: int) -> bytes:
        return self._client.recv(size)


@contextmanager
def running(limits: Limits = LIMITS, *, grace_s: float = 2.0) -> Iterator[Running]:
    """Run a server in a thread while the block lasts."""
    echo, ended = Echo(), list[str]()
    settings = Settings(port=0, stop_grace_s=grace_s)
    server = Server(echo, settings, limits=limits, count=ended.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    run = Running(server, echo, ended, thread)
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        run.port = server.servers[0].sockets[0].getsockname()[1]
        yield run
    finally:
        echo.go.set()
        for client in run.opened:
            _PUSHED.pop(client.fileno(), None)
            client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def run() -> Iterator[Running]:
    """A server with small limits."""
    with running() as one:
        yield one


@pytest.fixture
def run_with() -> Iterator[Callable[..., Running]]:
    """Starts a server with some limits changed."""
    stack = []

    def start(*, grace_s: float = 2.0, **changes: Any) -> Running:
        context = running(replace(LIMITS, **changes), grace_s=grace_s)
        one = context.__enter__()
        stack.append(context)
        return one

    yield start
    for context in stack:
        context.__exit__(None, None, None)
