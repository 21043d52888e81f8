"""Signs people in with a key, and out again."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response

from app.access import COOKIE
from app.deps import ServicesDep
from app.local_only import check_from_here
from app.services import Services
from app.web.page_routes import check_same_site, local_path, page_router
from app.web.rendering import render
from app.wire.root import outside_path

logger = logging.getLogger(__name__)
router = page_router()
_MAX_PATH = 500


@router.get("/sign-in")
async def show(
    request: Request,
    services: ServicesDep,
    wanted: Annotated[str, Query(alias="next", max_length=_MAX_PATH)] = "/",
) -> Response:
    """Ask for a key, where there are keys."""
    if _without_keys(request, services):
        return RedirectResponse(local_path(request, wanted), status_code=303)
    return render(request, "sign_in.html", wanted=wanted, refused=False)


@router.post("/sign-in")
async def sign_in(request: Request, services: ServicesDep) -> Response:
    """Begin a session with a key. The key itself is not kept in the browser."""
    check_same_site(request)
    form = await request.form(max_files=0, max_fields=10)
    token, wanted = str(form.get("key", "")).strip(), str(form.get("next", "/"))[:_MAX_PATH]
    if _without_keys(request, services):
        return RedirectResponse(local_path(request, wanted), status_code=303)
    key = services.keys.verify(token)
    if key is None:
        logger.warning("a sign-in was refused: the key is unknown or was revoked")
        return render(request, "sign_in.html", status=401, wanted=wanted, refused=True)
    session = await services.pools.store.run(services.sessions.begin, key.id)
    logger.info("signed in key=%s", key.id)
    response = RedirectResponse(local_path(request, wanted), status_code=303)
    response.set_cookie(
        COOKIE,
        session.secret,
        max_age=int(services.settings.session_s),
        path=outside_path(request.scope, "/"),
        httponly=True,
        samesite="strict",
        secure=_is_https(request),
    )
    return response


@router.post("/sign-out")
async def sign_out(request: Request, services: ServicesDep) -> Response:
    """End the session, for all servers."""
    check_same_site(request)
    secret = request.cookies.get(COOKIE)
    if secret is not None:
        await services.pools.store.run(services.sessions.end, secret)
    response = RedirectResponse(outside_path(request.scope, "/sign-in"), status_code=303)
    response.delete_cookie(COOKIE, path=outside_path(request.scope, "/"))
    return response


def _without_keys(request: Request, services: Services) -> bool:
    if services.keys.needed() or not services.settings.is_loopback:
        return False
    check_from_here(request, services.settings)
    return True


def _is_https(request: Request) -> bool:
    """Return whether the browser sees an encrypted page. A proxy may have taken the encryption off since."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
