"""Moving the pointer between versions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter

from app.deps import AdminCaller, ServicesDep
from app.errors import NothingToRollBackToError
from app.openapi import problems
from app.schemas import Moved, PromoteBody, RollbackBody
from app.services import Services
from model_store.broker import BrokerUnavailableError
from model_store.types import StoreError, VersionId

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/admin", tags=["admin"])
_RESPONSES = problems(404, 409, 422, 504, 507)


@router.post("/promote", summary="Serve a version", responses=_RESPONSES)
async def promote(body: PromoteBody, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT to a version, and answer once this server serves it.

    The version is loaded before the pointer moves, so a damaged one changes nothing.
    """
    before = await asyncio.to_thread(services.store.current)
    async with _prepared(services, body.version_id):
        await asyncio.to_thread(
            services.store.promote,
            body.version_id,
            expected=body.expected or before,
            who=caller.name,
            reason=body.reason,
        )
    return await _moved(services, before, body.version_id)


@router.post("/rollback", summary="Go back to a version", responses=_RESPONSES)
async def rollback(body: RollbackBody, services: ServicesDep, caller: AdminCaller) -> Moved:
    """Move CURRENT back to its parent or to the version named, and answer once this server serves it.

    The version is loaded before the pointer moves, so a damaged one changes nothing. With a named version this works
    while CURRENT itself is damaged.
    """
    before = await asyncio.to_thread(_current_or_none, services)
    target = body.version_id
    if target is None:
        target = await asyncio.to_thread(_parent_of_current, services)
    async with _prepared(services, target):
        await asyncio.to_thread(
            services.store.rollback, target, who=caller.name, reason=body.reason, expected=body.expected or before
        )
    return await _moved(services, before, target)


@asynccontextmanager
async def _prepared(services: Services, target: VersionId) -> AsyncIterator[None]:
    """Have `target` in memory while the pointer moves to it; let go of it if the move is refused."""
    await services.watcher.prepare(target)
    try:
        yield
    except BaseException:
        services.watcher.discard()
        raise


async def _moved(services: Services, before: VersionId | None, target: VersionId) -> Moved:
    try:
        await asyncio.to_thread(services.broker.announce_current, target)
    except BrokerUnavailableError as error:  # the other servers will see it at their next look
        logger.warning("the move to %s could not be announced: %s", target, error)
    await services.watcher.until_serving(target, services.settings.swap_timeout_s)
    return Moved.model_validate({"from": before, "to": target, "serving": target})


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
