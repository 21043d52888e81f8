"""One module for each page: it parses, asks the services that the API asks too, and renders a template."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from app.web.pages import ask, preferences, sign_in, teach

ROUTERS: Final[tuple[APIRouter, ...]] = (sign_in.router, preferences.router, ask.router, teach.router)
