"""One module for each page: it parses, asks the services that the API asks too, and renders a template."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from app.web.pages import (
    ask,
    classes,
    comparison,
    corrections,
    keys,
    live,
    preferences,
    sign_in,
    teach,
    test_sets,
    versions,
)

ROUTERS: Final[tuple[APIRouter, ...]] = (
    sign_in.router,
    preferences.router,
    ask.router,
    teach.router,
    classes.router,
    comparison.router,
    versions.router,
    live.router,
    test_sets.router,
    corrections.router,
    keys.router,
)
