"""Moves CURRENT on all servers on request, and waits until this one serves the version too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.services import Services
from exchange.rollout import Limits, RolloutRefusedError, move_current
from model_store.types import VersionId


@dataclass(frozen=True)
class Move:
    """A finished move: all servers serve `after`. Seconds as in `exchange.rollout.RolledOut`."""

    before: VersionId | None
    after: VersionId
    prepare_s: float
    commit_s: float


async def promote(
    services: Services,
    version_id: VersionId,
    *,
    who: str,
    reason: str,
    expected: VersionId | None,
    anyway: bool = False,
) -> Move:
    """Move CURRENT to a version.

    Args:
        services: the server's services.
        version_id: the version to move to.
        who: recorded in the journal.
        reason: recorded in the journal.
        expected: the version that CURRENT must name; None: the one it names now.
        anyway: move to a version that the gate holds, too.

    Raises:
        HeldError: the gate holds the version, and `anyway` is not set. No server was asked.
        StoreError: there is no such version, it is damaged, or CURRENT is not `expected`. Nothing moved.
        RolloutError: the servers were not all moved; its subclasses say why.
        SwapTimeoutError: CURRENT moved, but this server does not serve it yet.
    """
    store, read = services.store, services.pools.store.run
    before, moves = await read(store.current), await read(store.moves)
    if not anyway:
        await read(store.check_not_held, version_id)

    def move_pointer() -> None:
        store.promote(version_id, expected=expected or before, who=who, reason=reason, after_moves=moves, anyway=anyway)

    return await _move(services, before, version_id, move_pointer)


async def roll_back(
    services: Services, version_id: VersionId | None, *, who: str, reason: str, expected: VersionId | None
) -> Move:
    """Move CURRENT back to a version; None: to its parent. This works even if CURRENT or the parent is damaged.

    Arguments and errors as in `promote`.

    Raises:
        NothingToRollBackToError: no version was named, and there is none before CURRENT.
        HeldError: the gate held the named version, and it was never served. No server was asked.
    """
    store, read = services.store, services.pools.store.run
    before, moves = await read(store.readable_current), await read(store.moves)
    target = version_id if version_id is not None else await read(store.rollback_target)
    await read(store.check_not_held, target)

    def move_pointer() -> None:
        store.rollback(target, who=who, reason=reason, expected=expected or before, after_moves=moves)

    return await _move(services, before, target, move_pointer)


async def _move(
    services: Services, before: VersionId | None, target: VersionId, move_pointer: Callable[[], None]
) -> Move:
    await services.pools.store.run(services.store.manifest, target)  # raises before any server is asked
    loop = asyncio.get_running_loop()

    def prepare_here() -> None:
        asyncio.run_coroutine_threadsafe(services.watcher.prepare(target), loop).result()

    try:
        done = await services.pools.moves.run(
            move_current,
            services.roster,
            target,
            move_pointer,
            limits=Limits.of(services.settings),
            prepare_here=prepare_here,
        )
    except RolloutRefusedError:
        if services.member.refusal is not None:  # this server's own error says more than its report
            raise services.member.refusal from None
        raise
    except BaseException:
        if services.watcher.prepared == target:  # CURRENT did not move to it
            services.watcher.discard()
        raise
    moved_at = time.monotonic()
    if services.member.id not in done.members:  # no server was asked, or this one's report reached Redis too late
        await services.watcher.until_serving(target, services.settings.swap_timeout_s)
    return Move(before, target, done.prepare_s, done.commit_s + time.monotonic() - moved_at)
