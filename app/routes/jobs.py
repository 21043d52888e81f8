"""Routes that list, follow and cancel jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.deps import ServicesDep, TrainCaller
from app.errors import JobFinishedError
from app.openapi import problems
from app.schemas import JobList, JobView
from app.services import Services
from exchange.contracts import JobRecord, JobState, events_channel
from exchange.jobs import JobNotFoundError
from exchange.redis_client import BrokerUnavailableError

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("", summary="All jobs", responses=problems(503))
def list_jobs(services: ServicesDep, caller: TrainCaller) -> JobList:
    """List all stored jobs, newest first."""
    return JobList(jobs=[JobView.of(record) for record in services.jobs.list()])


@router.get("/{job_id}", summary="One job", responses=problems(404, 503))
def get_job(job_id: str, services: ServicesDep, caller: TrainCaller) -> JobView:
    """Return a job's state, its progress while it runs, and its result or error once it has ended."""
    return JobView.of(services.jobs.get(job_id))


@router.get(
    "/{job_id}/events",
    summary="Follow one job",
    response_class=EventSourceResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **problems(404, 503)},
)
async def follow_job(job_id: str, services: ServicesDep, caller: TrainCaller) -> EventSourceResponse:
    """Send server-sent events `state` and `progress`, each with the job as JSON, until the job has ended."""
    first = await asyncio.to_thread(services.jobs.get, job_id)
    return EventSourceResponse(_events(first, services), ping=services.settings.events_heartbeat_s)


@router.delete("/{job_id}", status_code=202, summary="Cancel one job", responses=problems(404, 409, 503))
def cancel_job(job_id: str, services: ServicesDep, caller: TrainCaller) -> JobView:
    """Ask a job to stop: a queued job is cancelled at once, a running one within a step.

    Cancelling a cancelled job again changes nothing.
    """
    record = services.jobs.request_cancel(job_id)
    if record.state is JobState.CANCELLED:
        services.spool.purge(job_id)
    elif record.state.terminal:
        raise JobFinishedError(f"job {job_id} has {record.state.value} already", extensions={"state": record.state})
    return JobView.of(record)


async def _events(record: JobRecord, services: Services) -> AsyncIterator[ServerSentEvent]:
    changed = asyncio.Event()
    last: JobView | None = None
    async with services.announcements.on(events_channel(record.job_id), changed.set):
        while True:
            view = JobView.of(record)
            if view != last:
                event = "progress" if last is not None and last.state == view.state else "state"
                yield ServerSentEvent(view.model_dump_json(), event=event)
                last = view
            if record.state.terminal:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), services.settings.events_poll_s)
            changed.clear()
            try:
                record = await asyncio.to_thread(services.jobs.get, record.job_id)
            except BrokerUnavailableError:
                continue  # the stream's heartbeat goes on, and so may the job
            except JobNotFoundError:
                return
