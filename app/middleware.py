"""Middleware for every request: its method, a limit on its body, a log line, metrics. Plain ASGI; buffers nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTooLargeError
from app.metrics import Metrics
from app.pacing import HELD_S
from app.problems import response_for
from app.wire.root import route_path

logger = logging.getLogger("app.access")


class Methods:
    """Answers HEAD as GET without its body, and OPTIONS with the methods of a path, which a 405 names too.

    Args:
        routes: returns the routes that requests are matched with.
    """

    def __init__(self, app: ASGIApp, routes: Callable[[], Iterable[BaseRoute]]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        elif scope["method"] == "OPTIONS" and (allowed := self._allowed(scope)):
            await Response(status_code=204, headers={"Allow": allowed})(scope, receive, send)
        else:

            async def naming(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] == 405:
                    MutableHeaders(scope=message)["Allow"] = self._allowed(scope)
                await send(message)

            await self._app(scope, receive, naming)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def without_body(message: Message) -> None:
            nonlocal answered
            if answered:
                return
            answered = True
            if message["status"] == 405:
                MutableHeaders(scope=message)["Allow"] = self._allowed(scope)
            await send(message)
            await send({"type": "http.response.body", "body": b""})

        async def until_answered() -> Message:  # ends a stream, which would go on for as long as somebody listens
            return {"type": "http.disconnect"} if answered else await receive()

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, until_answered, without_body)
        finally:
            scope["route"] = as_get.get("route")  # for the log and the metrics

    def _allowed(self, scope: Scope) -> str:
        """Return the methods of a path, with commas; empty if there is no such path."""
        methods = {
            method
            for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
            if scope["path"] == "*"
            or any(route.matches({**scope, "method": method})[0] is Match.FULL for route in self._routes())
        }
        more = ("OPTIONS", "HEAD") if "GET" in methods else ("OPTIONS",)
        return ", ".join(sorted({*methods, *more})) if methods else ""


class BodyLimit:
    """Answers 413 to a body that is too large: at once if Content-Length says so, else when it passes the limit.

    Args:
        limit: returns the bytes allowed for a path.
    """

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        limit = self._limit(path)
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            refusal = BodyTooLargeError(f"the body has {int(announced)} bytes; at most {limit} are allowed here")
            # the body is not read, so the connection cannot be used again
            response = response_for(refusal, path)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise BodyTooLargeError(f"the body is larger than the {limit} bytes that are allowed here")
            return message

        await self._app(scope, counted, send)


class Observe:
    """Writes one log line and the request metrics per answer. Bodies, queries and file names are not logged."""

    def __init__(self, app: ASGIApp, metrics: Metrics, model_version: Callable[[], str | None]) -> None:
        self._app = app
        self._metrics = metrics
        self._model_version = model_version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 500

        async def noticing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noticing)
        finally:
            state = scope.get("state", {})
            seconds = time.perf_counter() - begun - state.get(HELD_S, 0.0)
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            version = state.get("model_version") or self._model_version() or "none"
            logger.info("%s %s %d %.1fms model_version=%s", scope["method"], route, status, seconds * 1000, version)
