"""Puts the page into the server: its files, its routes, and where the service's own paths begin."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from app.web import served_files
from app.web.navigation import N_
from app.web.page_routes import show_problem
from app.web.pages import ROUTERS
from app.wire.root import route_path

_NOT_FOR_PEOPLE: Final = ("/v1", "/v2", "/assets/", "/openapi.json", "/metrics")


def install(app: FastAPI) -> None:
    """Serve the page at `/` and below, with all that it needs. It asks for nothing from elsewhere."""

    @app.get("/assets/{digest}/{name:path}", include_in_schema=False)
    async def asset(request: Request, digest: str, name: str) -> Response:
        return await served_files.answer(request, digest, name)

    for router in ROUTERS:
        app.include_router(router)
    answer_programs = app.exception_handlers[HTTPException]

    async def nothing_there(request: Request, error: Exception) -> Response:
        for_people = "text/html" in request.headers.get("accept", "")
        if for_people and not route_path(request.scope).startswith(_NOT_FOR_PEOPLE):
            return show_problem(request, 404, N_("There is no such page"), None)
        answer = answer_programs(request, error)
        return answer if isinstance(answer, Response) else await answer

    app.add_exception_handler(404, nothing_there)
