"""The page where images are tried."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from app.deps import ServicesDep
from app.web.page_routes import Classifying, page_router
from app.web.rendering import render

router = page_router()


@router.get("/")
async def show(request: Request, services: ServicesDep, caller: Classifying) -> Response:
    """Show where images go, and what the served version knows."""
    served = await services.watcher.served()
    settings = services.settings
    return render(
        request,
        "try/page.html",
        caller,
        classes=[each.name for each in served.classes],
        most_images=settings.max_images,
        most_labels=settings.max_labels,
    )
