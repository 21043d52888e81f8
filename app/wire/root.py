"""The path that the service is served below, such as /vision behind a proxy."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send


class Below:
    """Puts every request below `root_path`, whether the proxy before has taken the prefix away or not."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "*":
            path = scope["path"]
            scope["root_path"] = self._root_path
            if path != self._root_path and not path.startswith(f"{self._root_path}/"):
                scope["path"] = self._root_path + path
        await self._app(scope, receive, send)


def route_path(scope: Any) -> str:
    """Return the path of a request without what it is served below: `/v1/classify`."""
    return str(scope["path"].removeprefix(scope.get("root_path", "")))


def outside_path(scope: Any, path: str) -> str:
    """Return the path by which a client reaches `path`, which begins with a slash."""
    return str(scope.get("root_path", "") + path)
