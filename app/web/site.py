"""Puts the page into the server: its files, its routes, and where the service's own paths begin."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from app.web import served_files
from app.web.pages import ROUTERS


def install(app: FastAPI) -> None:
    """Serve the page at `/` and below, with all that it needs. It asks for nothing from elsewhere."""

    @app.get("/assets/{digest}/{name:path}", include_in_schema=False)
    async def asset(request: Request, digest: str, name: str) -> Response:
        return await served_files.answer(request, digest, name)

    for router in ROUTERS:
        app.include_router(router)
