"""Routes that move CURRENT on all servers."""

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

    Every server loads the version before CURRENT moves. If a server cannot serve it, nothing changes.
    """
    move = await moves.promote(services, body.version_id, who=caller.name, reason=body.reason, expected=body.expected)
    return _moved(move)


@router.post("/rollback", summary="Go back to a version", responses=_RESPONSES)
async def rollback(body: RollbackBody, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT back to its parent or to the named version, and answer once all servers serve it.

    Every server prepares the version before CURRENT moves. If a server cannot serve it, nothing changes. Naming a
    version works even if CURRENT itself is damaged.
    """
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
