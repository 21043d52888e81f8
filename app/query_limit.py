"""Refuses a query that is too long to be parsed on the event loop, before anything parses it. Plain ASGI."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import InvalidRequestError
from app.problems import response_for

MAX_QUERY_BYTES = 512 * 1024
MAX_PARAMETERS = 2000
"""Most parameters of a query; each ad-hoc label is one."""


class QueryLimit:
    """Answers 422 to a query of too many bytes or parameters."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope.get("query_string", b"")
        if len(query) <= MAX_QUERY_BYTES and query.count(b"&") < MAX_PARAMETERS:
            await self._app(scope, receive, send)
            return
        refusal = InvalidRequestError(
            f"the query has {len(query)} bytes and {query.count(b'&') + 1} parameters; at most {MAX_QUERY_BYTES} bytes "
            f"and {MAX_PARAMETERS} parameters are read"
        )
        await response_for(refusal, scope["path"])(scope, receive, send)
