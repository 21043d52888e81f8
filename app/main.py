"""Builds the server as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app import docs_page, problems, web
from app.metrics import Metrics
from app.middleware import BodyLimit, Methods, Observe
from app.openapi import DESCRIPTION, TAGS, DescribedApp
from app.pacing import Pace, Paced
from app.query_limit import QueryLimit
from app.routes import (
    admin,
    classes,
    classify,
    corrections,
    embeddings,
    evaluations,
    health,
    jobs,
    open_inference,
    tasks,
    test_sets,
    versions,
)
from app.serving.live_model import LiveModel
from app.settings import MIB, Settings
from app.startup import running
from app.wire.root import Below

OTHER_BODY_BYTES = MIB


def create_app(settings: Settings, *, metrics: Metrics | None = None) -> FastAPI:
    """Build the server as an ASGI application. Its lifespan opens and closes the model and all services."""
    metrics = metrics or Metrics()
    lease_s = max(settings.server_lost_after_s, 3 * settings.poll_interval_s)
    live = LiveModel(metrics, lease_s=lease_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            app.openapi()  # read now: later there may be no file descriptor left for it
            async with running(settings, metrics, live) as services:
                app.state.services = services
                yield
        except Exception as error:
            app.state.startup_error = error
            raise

    app = DescribedApp(
        title="Keepsight",
        version=version("keepsight"),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.startup_error = None
    problems.install(app)
    resources = (
        classify,
        embeddings,
        open_inference,
        tasks,
        corrections,
        jobs,
        test_sets,
        evaluations,
        classes,
        versions,
        admin,
        health,
    )
    for resource in resources:
        app.include_router(resource.router)

    web.install(app)
    docs_page.install(app)
    # the last one added is the first to see a request
    app.add_middleware(QueryLimit)
    app.add_middleware(BodyLimit, limit=lambda path: _body_limit(path, settings))
    app.add_middleware(Methods, routes=lambda: app.router.routes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=("Retry-After", "Location", "Idempotency-Replayed", "Allow", "WWW-Authenticate"),
        )
    app.add_middleware(Paced, pace=Pace(settings.refusals_per_s), metrics=metrics)
    app.add_middleware(Observe, metrics=metrics, model_version=lambda: live.version_id)
    if settings.root_path:
        app.add_middleware(Below, root_path=settings.root_path)
    return app


def _body_limit(path: str, settings: Settings) -> int:
    is_upload = path == "/v1/tasks" or path.startswith("/v1/test-sets/")
    if is_upload or (path.startswith("/v1/classes/") and path.endswith("/replace")):
        return settings.max_upload_bytes
    if path in ("/v1/classify", "/v1/corrections", "/v1/embeddings") or path.startswith("/v2/models/"):
        return settings.max_classify_bytes
    return OTHER_BODY_BYTES
