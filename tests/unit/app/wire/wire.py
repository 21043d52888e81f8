"""A real server on a real socket around a small application, and clients that send raw bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

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
    header_timeout_s=5.0,
    idle_timeout_s=5.0,
    stall_timeout_s=5.0,
    window_bytes=5000,
)


class Echo:
    """Answers with what it saw. `/held` waits for `go`, `/large` sends 16 MiB, `/early` reads no body."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = 0
        self.hung_up = 0

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
                self.hung_up += 1
                return
            body += message["body"]
            more = message["more_body"]
        while scope["path"] == "/held" and not self.go.is_set():
            await asyncio.sleep(0.01)
        if scope["path"] == "/large":
            await self._large(send)
            return
        seen = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": body.decode("latin-1"),
        }
        answer = json.dumps(seen).encode()
        length = (b"content-length", str(len(answer)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": answer})

    async def _large(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(256):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await send({"type": "http.response.body"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        kind = ""
        while kind != "lifespan.shutdown":
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})


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

    @property
    def problem(self) -> str:
        """The last part of a problem document's type."""
        assert self.headers["content-type"] == "application/problem+json"
        return str(self.document["type"]).rpartition(":")[2]


class Peer:
    """A client that sends the bytes it is given."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(30)
        self._buffer = b""
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes, as far as the server takes them."""
        self.socket.sendall(data)

    def reply(self) -> Reply:
        """Read one response; an interim one is passed over.

        Raises:
            EOFError: the connection ended instead.
        """
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        if status == 100:
            return self.reply()
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Reply(status, headers, body)

    def ends(self) -> bool:
        """Wait until the server closes the connection; return whether nothing came before."""
        silent = True
        try:
            while data := self.socket.recv(65_536):
                silent = silent and not data
        except ConnectionError:
            pass
        return silent

    def _more(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise EOFError("the connection ended before the answer was complete")
        self._buffer += data


@dataclass
class Running:
    """A server that runs in a thread."""

    server: Server
    echo: Echo
    ended: list[str]
    port: int = 0
    peers: list[Peer] = field(default_factory=list)

    def peer(self, *, receive_buffer: int | None = None) -> Peer:
        """Open a connection, which is closed with the server."""
        made = Peer(self.port, receive_buffer=receive_buffer)
        self.peers.append(made)
        return made

    def ask(self, *parts: bytes) -> Reply:
        """Send bytes over a connection of their own and return the first answer."""
        with Peer(self.port) as peer:
            for part in parts:
                peer.send(part)
            return peer.reply()

    def answers(self) -> bool:
        """Return whether an honest request is answered."""
        return self.ask(b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status == 200

    def answers_or_not(self) -> int | None:
        """Return the status of an honest request; None if the connection ended."""
        try:
            return self.ask(b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status
        except (ConnectionError, EOFError):
            return None

    def is_empty(self) -> bool:
        """Return whether no connection and no task is left."""
        state = self.server.server_state
        return not (len(self.server.crowd) or state.connections or state.tasks)


@contextmanager
def running(limits: Limits = LIMITS, *, grace_s: float = 5.0) -> Iterator[Running]:
    """Run a server while the block lasts."""
    echo, ended = Echo(), list[str]()
    server = Server(echo, Settings(port=0, stop_grace_s=grace_s), limits=limits, count=ended.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    run = Running(server, echo, ended)
    try:
        wait_until(lambda: server.ports or not thread.is_alive())
        run.port = server.ports[0]
        yield run
    finally:
        echo.go.set()
        for peer in run.peers:
            peer.socket.close()
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"
