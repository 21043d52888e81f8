"""Keeps the language and the colours that somebody chose, in cookies of their browser."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from app.web import languages
from app.web.page_routes import check_same_site, local_path, page_router
from app.web.rendering import THEME_COOKIE, THEMES
from app.wire.root import outside_path

router = page_router()
_KEPT_S = 365 * 24 * 3600


@router.post("/preferences")
async def prefer(request: Request) -> Response:
    """Keep what the form says, and go back to the page that it was sent from."""
    check_same_site(request)
    form = await request.form(max_files=0, max_fields=10)
    response = RedirectResponse(local_path(request, str(form.get("back", "/"))), status_code=303)
    choices = ((languages.COOKIE, "language", languages.languages()), (THEME_COOKIE, "theme", THEMES))
    for cookie, field, allowed in choices:
        chosen = form.get(field)
        if isinstance(chosen, str) and chosen in allowed:
            response.set_cookie(
                cookie, chosen, max_age=_KEPT_S, path=outside_path(request.scope, "/"), httponly=True, samesite="strict"
            )
    return response
