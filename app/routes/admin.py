"""Moving the pointer between versions, over all servers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from fastapi import APIRouter

from app.deps import AdminCaller, ServicesDep
from app.errors import NothingToRollBackToError
from app.openapi import problems
from app.schemas import Moved, PromoteBody, RollbackBody, Rollout, ServerProcess
from app.services import Services
from model_store.redis_client import BrokerUnavailableError
from model_store.rollout import Limits, RolledOut, RolloutRefusedError, roll_out
from model_store.types import StoreError, VersionId

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/admin", tags=["admin"])
_RESPONSES = problems(404, 409, 422, 503, 504, 507)


@router.post("/promote", summary="Serve a version", responses=_RESPONSES)
async def promote(body: PromoteBody, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT to a version, and answer once all servers serve it.

    Every server loads the version before the pointer moves, so one that a server cannot serve changes nothing.
    """
    before = await asyncio.to_thread(services.store.current)
    return await _move(
        services,
        before,
        body.version_id,
        lambda: services.store.promote(
            body.version_id, expected=body.expected or before, who=caller.name, reason=body.reason
        ),
    )


@router.post("/rollback", summary="Go back to a version", responses=_RESPONSES)
async def rollback(body: RollbackBody, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT back to its parent or to the version named, and answer once all servers serve it.

    Every server has the version ready before the pointer moves, so one that a server cannot serve changes nothing. With
    a named version this works while CURRENT itself is damaged.
    """
    before = await asyncio.to_thread(_current_or_none, services)
    target = body.version_id
    if target is None:
        target = await asyncio.to_thread(_parent_of_current, services)
    return await _move(
        services,
        before,
        target,
        lambda: services.store.rollback(target, who=caller.name, reason=body.reason, expected=body.expected or before),
    )


@router.get("/rollout", summary="Who serves what", responses=problems(503))
async def rollout(services: ServicesDep, caller: AdminCaller) -> Rollout:
    """Every server process of this store with its version and state, and what is being rolled out."""
    current, move, seen = await asyncio.gather(
        asyncio.to_thread(_current_or_none, services),
        asyncio.to_thread(services.roster.move),
        asyncio.to_thread(services.roster.servers),
    )
    under_way = move is not None and move.state == "preparing"
    return Rollout(
        current=current,
        target=move.version_id if move is not None and under_way else None,
        processes=[
            ServerProcess(
                **server.report.model_dump(include={"id", "host", "pid", "device", "serving", "prepared", "reason"}),
                state="dead" if server.seen_s > services.settings.server_lost_after_s else server.report.state,
                seen_s=server.seen_s,
            )
            for server in seen
        ],
    )


async def _move(
    services: Services, before: VersionId | None, target: VersionId, move_pointer: Callable[[], object]
) -> Moved:
    """Move CURRENT by agreement of all servers; where Redis does not answer, of this one alone."""
    await asyncio.to_thread(services.store.manifest, target)  # there is such a version, or nobody need be asked
    timeout_s = services.settings.swap_timeout_s
    limits = Limits(prepare_s=timeout_s, serve_s=timeout_s, lost_after_s=services.settings.server_lost_after_s)
    try:
        done = await asyncio.to_thread(roll_out, services.roster, target, move_pointer, limits=limits)
    except RolloutRefusedError:
        if services.member.refusal is not None:  # this server's own reason says more than a report of it
            raise services.member.refusal from None
        raise
    except BrokerUnavailableError as error:
        logger.warning("moving to %s without asking the other servers: %s", target, error)
        done = await _alone(services, target, move_pointer)
    if services.member.id not in done.members:  # its report did not reach Redis in time
        await services.watcher.until_serving(target, timeout_s)
    return Moved.model_validate(
        {"from": before, "to": target, "serving": target, "prepare_s": done.prepare_s, "commit_s": done.commit_s}
    )


async def _alone(services: Services, target: VersionId, move_pointer: Callable[[], object]) -> RolledOut:
    begun = time.monotonic()
    await services.watcher.prepare(target)
    ready = time.monotonic()
    try:
        await asyncio.to_thread(move_pointer)
    except BaseException:
        services.watcher.discard()
        raise
    await services.watcher.until_serving(target, services.settings.swap_timeout_s)
    return RolledOut((services.member.id,), prepare_s=ready - begun, commit_s=time.monotonic() - ready)


def _current_or_none(services: Services) -> VersionId | None:
    try:
        return services.store.current()
    except StoreError:
        return None


def _parent_of_current(services: Services) -> VersionId:
    current = services.store.current()
    parent = services.store.manifest(current).parent if current else None
    if parent is None:
        raise NothingToRollBackToError(f"version {current} is the first; there is nothing before it")
    return parent
