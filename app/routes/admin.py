"""Moving the pointer between versions, over all servers."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from app import moves
from app.deps import AdminCaller, ServicesDep
from app.openapi import problems
from app.schemas import Moved, PromoteBody, RollbackBody, Rollout, ServerProcess

router = APIRouter(prefix="/v1/admin", tags=["admin"])
_RESPONSES = problems(404, 409, 422, 503, 504, 507)


@router.post("/promote", summary="Serve a version", responses=_RESPONSES)
async def promote(body: PromoteBody, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT to a version, and answer once all servers serve it.

    Every server loads the version before the pointer moves, so one that a server cannot serve changes nothing.
    """
    move = await moves.promote(services, body.version_id, who=caller.name, reason=body.reason, expected=body.expected)
    return _moved(move)


@router.post("/rollback", summary="Go back to a version", responses=_RESPONSES)
async def rollback(body: RollbackBody, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT back to its parent or to the version named, and answer once all servers serve it.

    Every server has the version ready before the pointer moves, so one that a server cannot serve changes nothing. With
    a named version this works while CURRENT itself is damaged.
    """
    move = await moves.roll_back(services, body.version_id, who=caller.name, reason=body.reason, expected=body.expected)
    return _moved(move)


@router.get("/rollout", summary="Who serves what", responses=problems(503))
async def rollout(services: ServicesDep, caller: AdminCaller) -> Rollout:
    """Every server process of this store with its version and state, and what is being rolled out."""
    current, move, seen = await asyncio.gather(
        asyncio.to_thread(services.store.readable_current),
        asyncio.to_thread(services.roster.move),
        asyncio.to_thread(services.roster.servers),
    )
    under_way = move is not None and move.state == "preparing"
    return Rollout(
        current=current,
        target=move.version_id if move is not None and under_way else None,
        processes=[ServerProcess.of(server, lost_after_s=services.settings.server_lost_after_s) for server in seen],
    )


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
