"""The page of the test sets."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from app.deps import ServicesDep
from app.evaluations import unknown_labels
from app.services import Services
from app.web.page_routes import AnyReader, page_router
from app.web.rendering import render
from model_store.evaluations import Evaluations
from model_store.naming import Namings

router = page_router()


@router.get("/test-sets")
async def show(request: Request, services: ServicesDep, caller: AnyReader) -> Response:
    """Show the test sets, what CURRENT has right of each, and how more are stored."""
    return render(request, "test_sets/page.html", caller, **await services.pools.store.run(_shown, services))


def _shown(services: Services) -> dict[str, Any]:
    store, settings = services.store, services.settings
    current = store.readable_current()
    namings = Namings(services.store)
    naming = namings.as_far_as_known(current)
    evaluations, found = Evaluations(store.root), services.test_sets.all()
    rows = []
    for record in found:
        stored = None if current is None else evaluations.get(current, record.digest)
        overall = None if stored is None else stored.results.get("overall")
        accuracy = overall.get("fused") if isinstance(overall, dict) else None
        unknown = unknown_labels(namings, record, naming)
        rows.append({"set": record, "unknown": unknown, "accuracy": accuracy, "measured": stored is not None})
    used = sum(record.bytes for record in found)
    return {
        "rows": rows,
        "current": current,
        "sets_left": max(0, settings.max_test_sets - len(found)),
        "bytes_used": used,
        "bytes_left": max(0, settings.max_test_set_bytes - used),
        "days": settings.test_set_days,
    }
