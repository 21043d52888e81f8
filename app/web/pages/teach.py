"""The page where classes are taught, and where what is being taught is followed."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from app.access import Caller
from app.deps import ServicesDep
from app.services import Services
from app.web.page_routes import Training, page_router
from app.web.rendering import render
from exchange.contracts import JobRecord
from exchange.notes import find
from exchange.redis_client import BrokerUnavailableError

router = page_router()
_LATEST = 8


@router.get("/teach")
async def show(request: Request, services: ServicesDep, caller: Training) -> Response:
    """Show where images of new classes go, and what was taught last."""
    return await _page(request, services, caller, None)


@router.get("/teach/{job_id}")
async def follow(request: Request, job_id: str, services: ServicesDep, caller: Training) -> Response:
    """Show what becomes of one task."""
    record = await services.pools.broker.run(find, services.jobs, services.spool, job_id)
    return await _page(request, services, caller, record)


async def _page(request: Request, services: Services, caller: Caller, record: JobRecord | None) -> Response:
    served = await services.watcher.served()
    broker_is_there = True
    latest: list[JobRecord] = []
    try:
        listing = await services.pools.broker.run(services.jobs.listing, limit=4 * _LATEST)
        latest = [each for each in listing.records if each.job.classes and not each.job.dry_run][:_LATEST]
    except BrokerUnavailableError:
        broker_is_there = False
    return render(
        request,
        "teach/page.html",
        caller,
        classes=[each.name for each in served.classes],
        broker_is_there=broker_is_there,
        latest=[_told(each) for each in latest],
        job=None if record is None else _told(record),
        most_bytes=services.settings.max_upload_bytes,
        most_classes=services.settings.max_task_classes,
    )


def _told(record: JobRecord) -> dict[str, object]:
    return {
        "id": record.job_id,
        "name": record.job.task_name,
        "state": record.state.value,
        "classes": [each.name for each in record.job.classes],
        "images": sum(each.images for each in record.job.classes),
        "created_at": record.created_at,
    }
