"""The page of what goes on now: requests, answers, jobs, and the last lines of the journal."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from app.access import Caller
from app.deps import ServicesDep
from app.schemas import JobView, ServerProcess
from app.services import Services
from app.web.journal_words import Told, told
from app.web.page_routes import AnyReader, page_router
from app.web.rendering import render
from exchange.redis_client import BrokerUnavailableError
from exchange.roster import SeenServer

router = page_router()
MOST_JOBS: Final = 12
MOST_LINES: Final = 25
_OF_A_JOB = {
    "job_id", "name", "state", "progress", "serving", "created_at", "finished_at", "error",
    "merges", "evaluates", "edit", "corrections",
}  # fmt: skip


@router.get("/live")
async def show(request: Request, services: ServicesDep, caller: AnyReader) -> Response:
    """Show what goes on. A script asks for the figures again and again."""
    return render(request, "live/page.html", caller, sees_jobs="train" in caller.scopes, sees_all=_sees_all(caller))


@router.get("/part/live")
async def now(services: ServicesDep, caller: AnyReader) -> Response:
    """Return the figures of this moment: of all servers for those who may see them, else of this one."""
    servers, reachable = await _servers(services, caller)
    return JSONResponse(
        {
            "broker": reachable,
            "current": await services.pools.store.run(services.store.readable_current),
            "processes": servers,
            "jobs": await _jobs(services) if "train" in caller.scopes else None,
        }
    )


@router.get("/part/live/journal")
async def journal(request: Request, services: ServicesDep, caller: AnyReader) -> Response:
    """Show the last lines of the journal, to those who may do what it tells of."""

    def read() -> list[Told]:
        return told(request, services.store.journal()[: -MOST_LINES - 1 : -1], services.book.read())

    lines = await services.pools.store.run(read) if _sees_all(caller) else []
    return render(request, "live/journal.html", caller, lines=lines)


def _sees_all(caller: Caller) -> bool:
    return "admin" in caller.scopes


async def _servers(services: Services, caller: Caller) -> tuple[list[dict[str, Any]], bool]:
    seen, reachable = [SeenServer(report=await services.member.report(), seen_s=0.0)], services.member.reaches_broker
    if _sees_all(caller):
        try:
            # what this server says now is newer than its last sign of life
            others = await services.pools.broker.run(services.roster.servers)
            seen += [server for server in others if server.report.id != services.member.id]
        except BrokerUnavailableError:
            reachable = False
    lost_s = services.settings.server_lost_after_s
    return [
        {
            **ServerProcess.of(server, lost_after_s=lost_s).model_dump(mode="json"),
            "figures": None if server.report.figures is None else server.report.figures.model_dump(mode="json"),
        }
        for server in sorted(seen, key=lambda server: server.report.id)
    ], reachable


async def _jobs(services: Services) -> list[dict[str, Any]] | None:
    try:
        found = await services.pools.broker.run(lambda: services.jobs.listing(limit=MOST_JOBS))
    except BrokerUnavailableError:
        return None
    return [JobView.of(record, listed=True).model_dump(mode="json", include=_OF_A_JOB) for record in found.records]
