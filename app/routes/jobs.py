"""Routes that list, follow and cancel jobs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.deps import ServicesDep, TrainCaller
from app.errors import JobFinishedError
from app.feeds import JobFeeds, Sight
from app.openapi import problems
from app.schemas import JobList, JobView
from app.services import Services
from exchange.contracts import JobState, receipt_for
from exchange.notes import find

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MOST_LISTED = 1000


@router.get("", summary="All jobs", response_model=JobList, responses=problems(404, 422, 503))
async def list_jobs(
    services: ServicesDep,
    caller: TrainCaller,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED, description="Most jobs of one answer.")] = MOST_LISTED,
    before: Annotated[
        str | None, Query(max_length=64, description="Only jobs older than this one: `next` of the answer before.")
    ] = None,
) -> Response:
    """List the stored jobs, newest first. `next` is where the rest begins, null if there is none."""

    def work() -> str:
        found = services.jobs.listing(limit=limit, before=before)
        following = found.records[-1].job_id if found.more else None
        jobs = [JobView.of(record, listed=True) for record in found.records]
        return JobList(jobs=jobs, next=following).model_dump_json()

    return Response(await services.pools.broker.run(work), media_type="application/json")


@router.get("/{job_id}", summary="One job", responses=problems(404, 503))
async def get_job(job_id: str, services: ServicesDep, caller: TrainCaller) -> JobView:
    """Return a job's state, its progress while it runs, and its result or error once it has ended."""
    return JobView.of(await services.pools.broker.run(find, services.jobs, services.spool, job_id))


@router.get(
    "/{job_id}/events",
    summary="Follow one job",
    response_class=EventSourceResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The job has ended, and the client has seen it."},
        **problems(404, 429, 503),
    },
)
async def follow_job(
    job_id: str,
    services: ServicesDep,
    caller: TrainCaller,
    last_event_id: Annotated[
        str | None, Header(max_length=64, description="The id of the last event that was received.")
    ] = None,
) -> Response:
    """Send server-sent events `state` and `progress`, each with the job as JSON, until the job has ended.

    A client that comes back with `Last-Event-ID` gets what has changed since, or 204 if the job had ended by then.
    """
    first = await services.feeds.first(job_id)
    if first.terminal and first.id == last_event_id:
        return Response(status_code=204)
    events = _events(job_id, first, services.feeds, seen=last_event_id)
    return EventSourceResponse(events, ping=services.settings.events_heartbeat_s)


@router.delete("/{job_id}", status_code=202, summary="Cancel one job", responses=problems(404, 409, 503))
async def cancel_job(job_id: str, services: ServicesDep, caller: TrainCaller) -> JobView:
    """Ask a job to stop: a queued job is cancelled at once, a running one within a step.

    Cancelling a cancelled job again changes nothing.
    """
    return await services.pools.broker.run(_cancel, job_id, services)


def _cancel(job_id: str, services: Services) -> JobView:
    find(services.jobs, services.spool, job_id)
    record = services.jobs.request_cancel(job_id)
    if record.state is JobState.CANCELLED:
        try:
            services.spool.purge(job_id)
        except OSError:
            logger.exception("the images of job %s could not be removed; a worker tries again", job_id)
        if record.receipt is None and (receipt := receipt_for(record.job, record.state)) is not None:
            services.jobs.save_receipt(job_id, receipt)
            record = record.model_copy(update={"receipt": receipt})
    elif record.state.terminal:
        raise JobFinishedError(f"job {job_id} has {record.state.value} already", extensions={"state": record.state})
    return JobView.of(record)


async def _events(job_id: str, first: Sight, feeds: JobFeeds, *, seen: str | None) -> AsyncIterator[ServerSentEvent]:
    state: str | None = None
    async with aclosing(feeds.follow(job_id, first)) as sights:
        async for sight in sights:
            if sight.id != seen:
                event = "progress" if state == sight.state else "state"
                yield ServerSentEvent(sight.data, event=event, id=sight.id)
            state = sight.state
