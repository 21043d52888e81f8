"""The page where classes are taught."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from app.deps import ServicesDep
from app.web.page_routes import Training, page_router
from app.web.rendering import render

router = page_router()


@router.get("/teach")
async def show(request: Request, services: ServicesDep, caller: Training) -> Response:
    """Show where images of new classes go, and what is being learned."""
    served = await services.watcher.served()
    return render(
        request,
        "teach/page.html",
        caller,
        classes=[each.name for each in served.classes],
        most_bytes=services.settings.max_upload_bytes,
    )
