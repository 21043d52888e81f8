"""The navigation leads to pages that there are, and that the browser tests look at."""

from __future__ import annotations

from app.web.navigation import ENTRIES
from app.web.pages import ROUTERS
from tests.page_paths import PAGES


def test_every_entry_of_the_navigation_is_a_page_that_is_looked_at() -> None:
    paths = {route.path for router in ROUTERS for route in router.routes if hasattr(route, "path")}
    assert {entry.path for entry in ENTRIES} <= paths & set(PAGES)
