"""Builds the server as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from app import problems
from app.metrics import Metrics
from app.middleware import BodyLimit, Observe
from app.openapi import DESCRIPTION, TAGS
from app.routes import admin, classify, embeddings, health, jobs, open_inference, tasks, versions
from app.serving.live_model import LiveModel
from app.settings import MIB, Settings
from app.startup import running

OTHER_BODY_BYTES = MIB


def create_app(settings: Settings, *, metrics: Metrics | None = None) -> FastAPI:
    """Build the server as an ASGI application. Its lifespan opens and closes the model and all services."""
    metrics = metrics or Metrics()
    lease_s = max(settings.server_lost_after_s, 3 * settings.poll_interval_s)
    live = LiveModel(metrics, lease_s=lease_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with running(settings, metrics, live) as services:
                app.state.services = services
                yield
        except Exception as error:
            app.state.startup_error = error
            raise

    app = FastAPI(
        title="Keepsight",
        version=version("keepsight"),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.startup_error = None
    problems.install(app)
    for resource in (classify, embeddings, open_inference, tasks, jobs, versions, admin, health):
        app.include_router(resource.router)

    @app.get("/", include_in_schema=False)
    def landing() -> RedirectResponse:
        return RedirectResponse("/docs")

    app.add_middleware(BodyLimit, limit=lambda path: _body_limit(path, settings))
    app.add_middleware(Observe, metrics=metrics, model_version=lambda: live.version_id)
    return app


def _body_limit(path: str, settings: Settings) -> int:
    if path == "/v1/tasks":
        return settings.max_upload_bytes
    if path in ("/v1/classify", "/v1/embeddings") or path.startswith("/v2/models/"):
        return settings.max_classify_bytes
    return OTHER_BODY_BYTES
