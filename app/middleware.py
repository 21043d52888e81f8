"""Middleware for every request: a limit on its body, one log line, two metrics. Plain ASGI; buffers nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTooLargeError
from app.metrics import Metrics
from app.problems import response_for

logger = logging.getLogger("app.access")


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
        limit = self._limit(scope["path"])
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            refusal = BodyTooLargeError(f"the body has {int(announced)} bytes; at most {limit} are allowed here")
            # the body is not read, so the connection cannot be used again
            response = response_for(refusal, scope["path"])
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
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            version = scope.get("state", {}).get("model_version") or self._model_version() or "none"
            logger.info("%s %s %d %.1fms model_version=%s", scope["method"], route, status, seconds * 1000, version)
