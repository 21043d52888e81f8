"""The page of the corrections that wait."""

from __future__ import annotations

from datetime import timedelta

from fastapi import Request
from fastapi.responses import Response

from app.corrections import corrections_of
from app.deps import ServicesDep
from app.web.page_routes import Training, page_router
from app.web.rendering import render

router = page_router()


@router.get("/corrections")
async def show(request: Request, services: ServicesDep, caller: Training) -> Response:
    """Show what waits to be learned, without its images."""
    settings = services.settings
    waiting = await services.pools.corrections.run(corrections_of(services).waiting)
    return render(
        request,
        "corrections/page.html",
        caller,
        waiting=waiting,
        bytes=sum(each.size for each in waiting),
        kept=timedelta(seconds=settings.corrections_kept_s),
        learn_count=settings.corrections_learn_count,
        learn_after=timedelta(seconds=settings.corrections_learn_after_s),
    )
