"""Routes that move CURRENT on all servers, remove versions, and set what a version must pass before it is promoted."""

from __future__ import annotations

import asyncio
import functools
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from app import moves
from app.deps import AdminCaller, ServicesDep
from app.json_body import read_json
from app.media_types import media_type
from app.openapi import json_body, problems
from app.schemas import Gate, GateChange, Moved, PromoteBody, PruneBody, Pruned, RollbackBody, Rollout, ServerProcess
from app.upkeep import needed_versions
from model_store.gate import GateSetting

router = APIRouter(prefix="/v1/admin", tags=["admin"])
_RESPONSES = problems(400, 404, 409, 413, 415, 422, 503, 504, 507)
MAX_BODY_BYTES = 64 * 1024
M = TypeVar("M", bound=BaseModel)


@router.post(
    "/promote", summary="Serve a version", responses=_RESPONSES, openapi_extra={"requestBody": json_body(PromoteBody)}
)
async def promote(request: Request, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT to a version, and answer once all servers serve it.

    Every server loads the version before CURRENT moves. If a server cannot serve it, nothing changes. A version that
    the gate holds is refused, unless `anyway` is set and a reason given.
    """
    body = await _read(request, PromoteBody)
    move = await moves.promote(
        services,
        body.version_id,
        who=caller.name,
        reason=body.reason,
        expected=body.expected,
        anyway=body.anyway,
    )
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


@router.post(
    "/prune",
    summary="Remove old versions",
    responses=problems(400, 409, 413, 415, 422, 503, 507),
    openapi_extra={"requestBody": json_body(PruneBody)},
)
async def prune(request: Request, services: ServicesDep, caller: AdminCaller) -> Pruned:
    """Remove old versions, or with `dry_run` only say which.

    These stay: CURRENT and its `keep` nearest ancestors, the `keep` newest versions, every pinned version, and what a
    server serves or a job needs that waits or runs. Without the broker that is not known, and nothing is removed.
    """
    body = await _read(request, PruneBody)
    store, spool, roster = services.store, services.spool, services.roster
    pruning = await services.pools.upkeep.run(
        store.prune,
        body.keep,
        who=caller.name,
        reason=body.reason,
        needed=lambda: needed_versions(store, spool, roster),
        dry_run=body.dry_run,
    )
    return Pruned.of(pruning, dry_run=body.dry_run)


@router.get(
    "/backup",
    summary="The store as a file",
    response_class=StreamingResponse,
    responses={
        200: {"description": "A tar archive.", "content": {"application/x-tar": {}}},
        **problems(503),
    },
)
async def backup(services: ServicesDep, caller: AdminCaller) -> Response:
    """Send a copy of the store, made while it is sent. The store may be used and changed meanwhile.

    It has every version, CURRENT, the journal, the gate's policy and what versions answered to test sets, but no test
    set: a copy would outlive the deletion of people's images. An archive that was cut has no CURRENT, which comes last.
    """
    return services.backups.response(caller.key_id)


@router.get("/gate", summary="What a version must pass", responses=problems(503))
async def gate(services: ServicesDep, caller: AdminCaller) -> Gate:
    """Return the policy by which a published version is promoted or held, and whether its file is damaged."""
    return _gate(await services.pools.store.run(services.store.gate))


@router.patch(
    "/gate",
    summary="Change what a version must pass",
    responses=problems(413, 415, 422, 503, 507),
    openapi_extra={"requestBody": json_body(GateChange)},
)
async def change_gate(request: Request, services: ServicesDep, caller: AdminCaller) -> Gate:
    """Change fields of the policy; null sets one back to its default. Versions published from now on are judged by it.

    A version that is held stays held.
    """
    body = await _read(request, GateChange)
    change = functools.partial(services.store.change_gate, body.changes, who=caller.name, reason=body.reason)
    await services.pools.store.run(change)
    return _gate(await services.pools.store.run(services.store.gate))


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


def _gate(setting: GateSetting) -> Gate:
    return Gate(policy=setting.policy, source=setting.source, problem=setting.problem)


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
