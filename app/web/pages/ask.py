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
        served=served.version_id,
        classes=[each.name for each in served.classes],
        can_correct="train" in caller.scopes,
        can_teach="train" in caller.scopes,
        most_images=settings.max_images,
        most_labels=settings.max_labels,
        most_bytes=settings.max_image_bytes,
    )


@router.get("/try/versions")
async def versions(request: Request, services: ServicesDep, caller: Classifying) -> Response:
    """Show the versions that could answer beside the served one. Reading them takes time, so only who asks waits."""
    served = await services.watcher.served()
    book = await services.pools.store.run(services.book.read)
    others = [line.manifest for line in book.lines if line.manifest.version_id != served.version_id]
    return render(request, "try/versions.html", caller, others=[other for other in others if other.classes])
