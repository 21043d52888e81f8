"""The page `/docs`: Swagger UI, served from files of this package, so that it needs nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

HERE = Path(__file__).parent
ASSETS = HERE / "assets"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def install(app: FastAPI) -> None:
    """Serve the page at `/docs` and its files below it. Its links are relative, so any path may come before."""
    page = HTMLResponse(
        (HERE / "page.html").read_text("utf-8"),
        headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"},
    )

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> HTMLResponse:
        return page

    app.mount("/docs/assets", StaticFiles(directory=ASSETS), name="docs-assets")
