"""The pages of the server, for tests that look at every one."""

from __future__ import annotations

from app.web.navigation import ENTRIES
from app.web.pages import ROUTERS

PAGES = sorted(
    {getattr(route, "path", "") for router in ROUTERS for route in router.routes}
    & {"/sign-in", *(entry.path for entry in ENTRIES)}
)
"""Their paths. Parts of pages, and pages of one job or version, are not among them."""
