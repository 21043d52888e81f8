"""What all routes of pages share: who may open one, and how an error is shown."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from app import problems
from app.access import Caller, admit
from app.deps import ServicesDep
from app.errors import ForbiddenError, InvalidRequestError, UnauthorizedError
from app.web.languages import language_of
from app.web.rendering import render
from app.web.sentences import in_words_of
from app.wire.root import outside_path, route_path
from keepsight.keys import KeyFileError
from segp_cl.errors import KeepsightError

logger = logging.getLogger(__name__)


class PageRoute(APIRoute):
    """A route whose errors are pages too. Who is not signed in is led to the sign-in, and back."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, which here answers every known error with a page."""
        handle = super().get_route_handler()

        async def handle_or_show(request: Request) -> Response:
            try:
                return await handle(request)
            except UnauthorizedError as error:
                if route_path(request.scope).startswith("/part/") and not is_part(request):  # a script asks
                    return JSONResponse(problems.problem_of(error), status_code=401)
                return _to_sign_in(request)
            except (KeepsightError, KeyFileError) as error:
                document = problems.problem_of(error)
                if document["status"] >= 500:
                    logger.warning("%s %s: %s", request.method, route_path(request.scope), error)
                return show_problem(request, document["status"], document["title"], document.get("detail"))
            except RequestValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"][1:])
                answer = problems.TABLE[InvalidRequestError]
                return show_problem(request, answer.status, answer.title, f"{where}: {first['msg']}")
            except HTTPException as error:
                document = problems.phrase_problem(error.status_code, str(error.detail))
                return show_problem(request, error.status_code, document["title"], document.get("detail"))

        return handle_or_show


def page_router() -> APIRouter:
    """Return a router for pages. They are not part of the documented API."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def opens(scope: str | None) -> Callable[..., Awaitable[Caller]]:
    """Return a dependency that lets in who has `scope`, or any valid key if None: by a session, or without keys."""

    async def dependency(request: Request, services: ServicesDep) -> Caller:
        return await admit(request, services, token=None, scope=scope)

    return dependency


AnyReader = Annotated[Caller, Depends(opens(None))]
Classifying = Annotated[Caller, Depends(opens("classify"))]
Training = Annotated[Caller, Depends(opens("train"))]
Administering = Annotated[Caller, Depends(opens("admin"))]


def show_problem(request: Request, status: int, title: str, detail: str | None) -> Response:
    """Return the page of an error, or the part of a page if htmx asked for one."""
    template = "problem_part.html" if is_part(request) else "problem.html"
    told = in_words_of(language_of(request), detail) if detail else None
    return render(request, template, status=status, title=title, detail=told or detail, english=not told, code=status)


def is_part(request: Request) -> bool:
    """Return whether htmx asks for a part of the page that is open."""
    return request.headers.get("hx-request") == "true"


def check_same_site(request: Request) -> None:
    """Check that a form was sent from a page of this service.

    Raises:
        ForbiddenError: it comes from another site, or nothing says where from.
    """
    site = request.headers.get("sec-fetch-site")
    host = request.headers.get("origin", "").partition("://")[2]
    if site == "same-origin" or (site is None and host and host == request.headers.get("host")):
        return
    raise ForbiddenError("this form was not sent from a page of this service; open the page, and send it from there")


def local_path(request: Request, wanted: str) -> str:
    """Return where to go next: the wanted page of this service, or the first one if it is none of ours."""
    ours = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted
    return outside_path(request.scope, wanted if ours and wanted.isprintable() else "/")


def _page_of(request: Request) -> str:
    """Return the path and query of the page that is asked for, or of the one that a part is asked for."""
    path, query = route_path(request.scope), request.url.query
    if is_part(request):
        root = outside_path(request.scope, "")
        shown = request.headers.get("hx-current-url", "").partition("://")[2]
        path, _, query = ("/" + shown.partition("/")[2]).removeprefix(root).partition("?")
    return f"{path or '/'}?{query}" if query else path or "/"


def _to_sign_in(request: Request) -> Response:
    path = _page_of(request)
    query = {} if path == "/" else {"next": path}
    target = outside_path(request.scope, "/sign-in") + (f"?{urlencode(query)}" if query else "")
    if is_part(request):  # the whole page goes there, not the part
        return Response(status_code=204, headers={"HX-Redirect": target})
    return RedirectResponse(target, status_code=303)
