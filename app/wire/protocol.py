"""HTTP/1.1 over one connection: uvicorn's protocol, with limits, time-outs and clean refusals.

uvicorn runs the application (`RequestResponseCycle`). This class decides what reaches it, and when a connection ends.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any

import httptools
from starlette.responses import Response
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.wire.crowd import Crowd
from app.wire.limits import MAX_HEADERS, MAX_PIPELINED, MAX_TARGET_BYTES
from app.wire.outlet import Outlet
from app.wire.patience import Awaited, Patience
from app.wire.refusals import RefusedError, check_head, no_room, stopping, unreadable

_NOTED = frozenset({b"host", b"expect", b"transfer-encoding"})
_BYTES_PER_BODY_BYTE = 8  # even chunks of one byte, each with its length and line ends, are no more
_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")


class Connection(HttpToolsProtocol):
    """One connection.

    A request is read only when those before it in the connection are answered or few. A client that does not send, or
    does not take, what it should in the time of `crowd.limits` is cut off. Whatever is no valid request is answered
    with a problem document, after the requests before it.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        crowd: Crowd,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.crowd = crowd
        self.limits = crowd.limits
        self.outlet: Outlet = None  # type: ignore[assignment]  # set when the connection is made, like the transport
        self._deaf = False  # nothing that comes is parsed any more
        self._running: RequestResponseCycle | None = None
        self._last_words: bytes | None = None
        self._served = False
        # the head that is being read
        self._in_head = False
        self._head_bytes = 0
        self._hosts: list[bytes] = []
        self._coding: bytes | None = None
        self._wanted_alive = False
        # what the looks compare
        self._patience = Patience(crowd.limits)
        self._turn = 0
        self._body_bytes = 0
        self._barren = 0  # bytes that brought neither a request nor much of a body: lengths of chunks, trailers, lines

    # what asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.outlet = Outlet(transport, self.end)
        self.crowd.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.gone(self)
        self.pipeline.clear()
        self._deaf = self.outlet.ended = True
        if self._running is not None:
            self.cycle = self._running  # it is told that its client is gone
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            if not self.outlet.ended:
                self.flow.pause_reading()
            return
        self._barren += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(unreadable(error, data))
        else:
            if self._barren > self.limits.header_bytes:
                self._refuse(self._too_large())

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as pause:
                # HTTP/1.1 is all that is spoken here, so the request is read again without its offer to change;
                # the parser would take the body for the other protocol
                head = self._head_without_upgrade()
                self.parser = _new_parser(self)
                data = head + data[pause.args[0] :]

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name in _UPGRADE_HEADERS:
                continue
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(token for token in tokens if token.lower() not in _UPGRADE_HEADERS)
                if not value:
                    continue
            lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    # what the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._turn += 1
        self._barren = self._head_bytes = self._body_bytes = 0
        self._hosts = []
        self._coding = None

    def on_url(self, url: bytes) -> None:
        self.url += url
        most = min(MAX_TARGET_BYTES, self.limits.header_bytes)
        if len(self.url) > most:
            raise RefusedError.of(414, f"the address has more than {most} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.limits.header_bytes:
            raise self._too_large()
        if not self._in_head:  # a trailer; none is of use, and none may pass for a header
            return
        if len(self.headers) >= MAX_HEADERS:
            raise RefusedError.of(431, f"the request has more than {MAX_HEADERS} headers")
        name = name.lower()
        if name in _NOTED:
            if name == b"host":
                self._hosts.append(value)
            elif name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            else:
                self._coding = value
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._barren = 0
        method = self.parser.get_method()
        version = self.parser.get_http_version()
        check_head(method, self.url, version, self._hosts, self._coding)
        if self.parser.should_upgrade():
            return  # `_feed` reads it again
        target = self.url
        if target == b"*":
            raw_path, query = target, b""
        else:
            parsed = httptools.parse_url(target)
            raw_path, query = parsed.path or b"/", parsed.query or b""
        path = raw_path.decode("ascii")
        if "%" in path:
            path = urllib.parse.unquote(path)
        scope = self.scope
        scope["method"] = method.decode("ascii")
        scope["http_version"] = version
        scope["path"] = path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        if self.crowd.closed:
            raise stopping()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise RefusedError.of(429, f"more than {MAX_PIPELINED} requests were sent before the first was answered")
        self._wanted_alive = version == "1.1" and self.parser.should_keep_alive()
        self.cycle = RequestResponseCycle(
            scope=scope,
            transport=self.outlet,  # type: ignore[arg-type]  # the part of a transport that a cycle uses
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version == "1.1",
            keep_alive=False,  # until the body is complete: an earlier answer leaves the rest of it in the way
            on_response=self.on_response_complete,
        )
        if self._running is None:
            self.crowd.works(self)
            self._run(self.cycle)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._barren = max(0, self._barren - _BYTES_PER_BODY_BYTE * len(body))
        self._body_bytes += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._barren = 0
        cycle = self.cycle
        cycle.more_body = False
        if not cycle.response_started:
            cycle.keep_alive = self._wanted_alive and not self.crowd.stopping
        cycle.message_event.set()

    # what requests and their answers lead to

    def _run(self, cycle: RequestResponseCycle) -> None:
        self._running = cycle
        self._served = True
        self._start_asgi_task(cycle, self._answer)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.crowd.stopping:
                raise
            # the grace is over, and the client is gone

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._running = None
        self._turn += 1
        if self.outlet.is_closing():
            return
        if self.pipeline:
            self._run(self.pipeline.pop()[0])
            if not self.pipeline:
                self.flow.resume_reading()
        elif self._last_words is not None:
            self.outlet.write(self._last_words)
            self.end()
        else:
            self.flow.resume_reading()
            self.crowd.waits(self)

    def _too_large(self) -> RefusedError:
        return RefusedError.of(431, f"the headers have more than {self.limits.header_bytes} bytes")

    def _refuse(self, refusal: RefusedError) -> None:
        """Answer an invalid request after those before it, and end the connection."""
        if self.outlet.is_closing():
            return
        self._deaf = True
        self.crowd.count(refusal.reason)
        answer = self._bytes_of(refusal.response)
        cycle = self.cycle
        if cycle is not None and cycle.more_body and not cycle.response_complete:  # it is its body that is invalid
            if cycle is self._running:
                started = cycle.response_started
                cycle.disconnected = True
                cycle.message_event.set()
                if not started:
                    self.outlet.write(answer)
                self.end()
                return
            self.pipeline.remove((cycle, self.app))
        if self._running is not None:
            self._last_words = answer
        else:
            self.outlet.write(answer)
            self.end()

    def _bytes_of(self, response: Response) -> bytes:
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        lines = [b"%s: %s\r\n" % header for header in headers]
        return b"".join([STATUS_LINE[response.status_code], *lines, b"\r\n", bytes(response.body)])

    def end(self) -> None:
        """Close after the last answer. If more may come, read it for a while: a reset could overtake the answer."""
        if self.outlet.is_closing():
            return
        self.outlet.ended = True
        complete = not self._deaf and (self.cycle is None or not self.cycle.more_body)
        if complete or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._deaf = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self.crowd.lingers(self)

    # what the crowd and the server call

    def look(self, now: float) -> None:
        """Cut the connection off if its client has taken too long."""
        awaited = self._awaited()
        moved = 0
        if awaited is Awaited.BODY:
            moved = self._body_bytes
        elif awaited is Awaited.READING:
            moved = self.outlet.taken()
        if not self._patience.ends(awaited, self._turn, moved, now):
            return
        limits = self.limits
        if awaited is Awaited.REQUEST:
            self.transport.close()
        elif awaited is Awaited.HEAD:
            self._refuse(RefusedError.of(408, f"the headers were not complete after {limits.header_timeout_s:g} s"))
        elif awaited is Awaited.BODY:
            slowest = limits.window_bytes / limits.stall_timeout_s
            self._refuse(RefusedError.of(408, f"the body came too slowly; expected {slowest:g} bytes/s or more"))
        else:
            self.crowd.count("answer-not-taken")
            self.drop()

    def _awaited(self) -> Awaited | None:
        if self.transport.get_write_buffer_size():
            return Awaited.READING
        if self._running is None:
            return Awaited.HEAD if self._in_head or not self._served else Awaited.REQUEST
        if self.cycle.more_body and not self.flow.read_paused:
            return Awaited.BODY
        return None

    def stalls(self) -> bool:
        """Return whether the client has neither sent nor taken anything between the last looks, but should have."""
        return self._patience.quiet

    def make_room(self) -> None:
        """Close the connection, because another needs its place; if its client is to send something, it is told."""
        if self.transport.get_write_buffer_size():
            self.crowd.gone(self)
            self.drop()
        elif self._served and self._running is None:
            self.crowd.gone(self)
            self.transport.close()
        else:
            self.turn_away()

    def turn_away(self) -> None:
        """Answer that there is no place for the connection, and close it."""
        self._refuse(stopping() if self.crowd.closed else no_room(self.limits.connections))

    def drop(self) -> None:
        """Close at once."""
        self.transport.abort()

    def shutdown(self) -> None:
        """Finish what is in hand, and begin nothing new."""
        self.crowd.stop()
        for cycle in (self._running, *(queued for queued, _ in self.pipeline)):
            if cycle is not None:
                cycle.keep_alive = False


def _new_parser(connection: Connection) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it: what follows is not run
    return parser
