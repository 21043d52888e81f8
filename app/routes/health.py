"""Health routes and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from app.deps import ServicesDep, from_here_if_keyless
from app.errors import NotReadyError
from app.metrics import CONTENT_TYPE
from app.openapi import problems
from app.schemas import Alive, Ready
from app.services import Services
from app.serving.live_model import Served

router = APIRouter(tags=["health"])
_FROM_HERE = [Depends(from_here_if_keyless)]
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/healthz", summary="The process answers", responses=problems(keyed=False))
async def healthz() -> Alive:
    """Answer 200 while the process runs."""
    return Alive()


@router.get(
    "/readyz",
    summary="A version is loaded and answers",
    responses=problems(403, 503, keyed=False),
    response_model=Ready,
    dependencies=_FROM_HERE,
)
async def readyz(services: ServicesDep) -> Ready:
    """Answer 200 if a version is loaded and an inference was answered within the last seconds, else 503.

    Classify requests do not need Redis, so a server is ready even with `broker: unreachable`.
    """
    served = await require_ready(services)
    return Ready(
        serving=served.version_id,
        classes=len(served.classes),
        engine=served.classifier.engine,
        behind=_behind(services),
        broker="reachable" if services.member.reaches_broker else "unreachable",
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses=_TEXT | problems(403, keyed=False),
    dependencies=_FROM_HERE,
)
def metrics(services: ServicesDep) -> Response:
    """Return this server's metrics in Prometheus' text format."""
    return Response(services.metrics.render(), media_type=CONTENT_TYPE)


async def require_ready(services: Services) -> Served:
    """Return the version that is served, if it answers a real inference.

    Raises:
        NotReadyError: no version is served, or it does not answer.
    """
    try:
        served = services.live.get()
        await services.engine.probe(served, timeout_s=services.settings.probe_timeout_s)
    except NotReadyError as error:
        raise NotReadyError(_behind(services) or str(error)) from error
    except TimeoutError as error:
        raise NotReadyError(
            f"no inference was answered within {services.settings.probe_timeout_s:g} s",
            extensions={"serving": services.live.version_id},
        ) from error
    return served


def _behind(services: Services) -> str | None:
    failure = services.watcher.failure
    return f"{failure.version_id or 'CURRENT'} cannot be served: {failure.reason}" if failure else None
