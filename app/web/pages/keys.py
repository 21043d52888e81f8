"""The page of the API keys: who may do what. It shows no secret, because none is stored."""

from __future__ import annotations

from datetime import datetime

from fastapi import Request
from fastapi.responses import Response

from app.deps import ServicesDep
from app.web.page_routes import Administering, page_router
from app.web.rendering import render
from keepsight.keys import SCOPES

router = page_router()


@router.get("/keys")
async def show(request: Request, services: ServicesDep, caller: Administering) -> Response:
    """Show the keys of the key file, the ones in force first."""
    keys = await services.pools.store.run(services.keys.list)
    return render(
        request,
        "keys/page.html",
        caller,
        living=[key for key in reversed(keys) if key.revoked_at is None],
        revoked=[key for key in reversed(keys) if key.revoked_at is not None],
        moment_of=datetime.fromisoformat,
        scopes=SCOPES,
        own=caller.key_id,
    )
