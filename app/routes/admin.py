"""Routes that move CURRENT on all servers."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app import moves
from app.deps import AdminCaller, ServicesDep
from app.json_body import read_json
from app.media_types import media_type
from app.openapi import json_body, problems
from app.schemas import Moved, PromoteBody, RollbackBody, Rollout, ServerProcess

router = APIRouter(prefix="/v1/admin", tags=["admin"])
_RESPONSES = problems(400, 404, 409, 413, 415, 422, 503, 504, 507)
MAX_BODY_BYTES = 64 * 1024
M = TypeVar("M", bound=BaseModel)


@router.post(
    "/promote", summary="Serve a version", responses=_RESPONSES, openapi_extra={"requestBody": json_body(PromoteBody)}
)
async def promote(request: Request, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT to a version, and answer once all servers serve it.

    Every server loads the version before CURRENT moves. If a server cannot serve it, nothing changes.
    """
    body = await _read(request, PromoteBody)
    move = await moves.promote(services, body.version_id, who=caller.name, reason=body.reason, expected=body.expected)
    return _moved(move)


@router.post(
    "/rollback",
    summary="Go back to a version",
    responses=_RESPONSES,
    openapi_extra={"requestBody": json_body(RollbackBody)},
)
async def rollback(request: Request, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT back to its parent or to the named version, and answer once all servers serve it.

    Every server prepares the version before CURRENT moves. If a server cannot serve it, nothing changes. Naming a
    version works even if CURRENT itself is damaged.
    """
    body = await _read(request, RollbackBody)
    move = await moves.roll_back(services, body.version_id, who=caller.name, reason=body.reason, expected=body.expected)
    return _moved(move)


@router.get("/rollout", summary="What every server serves", responses=problems(503))
async def rollout(services: ServicesDep, caller: AdminCaller) -> Rollout:
    """List every server of this store with its version and state, and the version that is being rolled out."""
    current, move, seen = await asyncio.gather(
        services.pools.store.run(services.store.readable_current),
        services.pools.broker.run(services.roster.move),
        services.pools.broker.run(services.roster.servers),
    )
    under_way = move is not None and move.state == "preparing"
    return Rollout(
        current=current,
        target=move.version_id if move is not None and under_way else None,
        processes=[ServerProcess.of(server, lost_after_s=services.settings.server_lost_after_s) for server in seen],
    )


async def _read(request: Request, model: type[M]) -> M:
    # FastAPI would read the body before it checks the caller's scope
    media_type(request, "application/json")
    return await read_json(request, model, max_bytes=MAX_BODY_BYTES, long_bytes=MAX_BODY_BYTES)


def _moved(move: moves.Move) -> Moved:
    return Moved.model_validate(
        {
            "from": move.before,
            "to": move.after,
            "serving": move.after,
            "prepare_s": move.prepare_s,
            "commit_s": move.commit_s,
        }
    )
