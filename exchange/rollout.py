"""Moving CURRENT over all servers at once: each prepares the version and says so, then the pointer moves.

Read `move_current` downwards. It is the same for a promotion, a rollback and a worker's new version.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from exchange.redis_client import BrokerUnavailableError
from exchange.roster import Move, Roster, SeenServer
from exchange.settings import SharedSettings
from segp_cl.errors import KeepsightError

logger = logging.getLogger(__name__)

POLL_S = 0.005


class RolloutError(KeepsightError):
    """CURRENT did not move, or did and not every server has followed."""


class RolloutBusyError(RolloutError):
    """Another move is under way, and did not end in time. Nothing moved."""


class RolloutRefusedError(RolloutError):
    """A server cannot serve the version. Nothing moved."""


class RolloutTimeoutError(RolloutError):
    """A server that lives did not say in time whether it can serve the version. Nothing moved."""


class RolloutUnfinishedError(RolloutError):
    """CURRENT moved, but after some time a server that lives does not serve it yet."""


@dataclass(frozen=True)
class Limits:
    """How long a move waits, in seconds.

    Attributes:
        turn_s: for another move to end.
        prepare_s: for all servers to be ready.
        serve_s: for all servers to serve it, once CURRENT has moved.
        lost_after_s: a server that said nothing for so long counts as dead.
    """

    turn_s: float = 10.0
    prepare_s: float = 60.0
    serve_s: float = 60.0
    lost_after_s: float = 5.0

    @classmethod
    def of(cls, settings: SharedSettings) -> Limits:
        """What the settings of server and worker allow."""
        timeout_s = settings.swap_timeout_s
        return cls(prepare_s=timeout_s, serve_s=timeout_s, lost_after_s=settings.server_lost_after_s)


@dataclass(frozen=True)
class RolledOut:
    """What a move took. `commit_s` runs from the pointer's move until all of `members` serve the version."""

    members: tuple[str, ...]
    prepare_s: float
    commit_s: float


def move_current(
    roster: Roster,
    version_id: str,
    move_pointer: Callable[[], object],
    *,
    limits: Limits,
    prepare_here: Callable[[], object],
) -> RolledOut:
    """`roll_out`; or, where Redis does not answer and nobody can be asked, a move that every server follows by itself.

    Whoever moves then makes sure that the version can be served, by `prepare_here`, before the pointer moves.

    Args:
        roster: of the store's servers.
        version_id: where CURRENT goes.
        move_pointer: moves it; if it raises, nothing has moved.
        limits: how long to wait.
        prepare_here: opens the version in this process; if it raises, nothing has moved.

    Returns:
        What the move took; without Redis, `members` is empty: nobody is known to serve the version yet.

    Raises:
        RolloutError: see its kinds.
    """
    try:
        return roll_out(roster, version_id, move_pointer, limits=limits)
    except BrokerUnavailableError as error:
        logger.warning("moving to %s without asking the servers: %s", version_id, error)
    begun = time.monotonic()
    prepare_here()
    ready = time.monotonic()
    move_pointer()
    return RolledOut((), prepare_s=ready - begun, commit_s=time.monotonic() - ready)


def roll_out(
    roster: Roster,
    version_id: str,
    move_pointer: Callable[[], object],
    *,
    limits: Limits,
) -> RolledOut:
    """Have all living servers prepare `version_id`, move CURRENT to it, and return once all of them serve it.

    A server that dies meanwhile is not waited for: it was not ready, so if it comes back, it refuses to answer until it
    serves CURRENT. One that only starts is not asked; it reads CURRENT before it answers anyone.

    Args:
        roster: of the store's servers.
        version_id: where CURRENT goes.
        move_pointer: moves it; if it raises, nothing has moved, and everybody is told.
        limits: how long to wait.

    Raises:
        BrokerUnavailableError: Redis does not answer; nothing moved.
        RolloutError: see its kinds.
    """
    begun = time.monotonic()
    move = _begin(roster, version_id, limits)
    try:
        members = _until_ready(roster, move, limits)
        if not roster.commit(move, members):
            raise RolloutTimeoutError(f"the move to {version_id} took too long, and another may have begun")
        ready = time.monotonic()
        move_pointer()
    except BaseException:
        _end(roster, move, abandoned=True)
        raise
    try:
        roster.wake(version_id)
        _until_served(roster, version_id, members, limits)
    except BrokerUnavailableError as error:
        logger.warning("CURRENT moved to %s, but who serves it is not known: %s", version_id, error)
    finally:
        _end(roster, move, abandoned=False)
    return RolledOut(members, prepare_s=ready - begun, commit_s=time.monotonic() - ready)


def _begin(roster: Roster, version_id: str, limits: Limits) -> Move:
    deadline = time.monotonic() + limits.turn_s
    while True:
        move = roster.begin(version_id, hold_s=limits.prepare_s + limits.serve_s + 10)
        if move is not None:
            return move
        if time.monotonic() > deadline:
            raise RolloutBusyError("another version is being rolled out; nothing moved")
        time.sleep(POLL_S)


def _end(roster: Roster, move: Move, *, abandoned: bool) -> None:
    try:
        roster.end(move, abandoned=abandoned)
    except BrokerUnavailableError as error:
        logger.warning("the end of the move to %s could not be told: %s", move.version_id, error)


def _until_ready(roster: Roster, move: Move, limits: Limits) -> tuple[str, ...]:
    """The living servers, once each has prepared the version."""
    deadline = time.monotonic() + limits.prepare_s
    while True:
        asked = [
            server
            for server in roster.servers()
            if server.seen_s <= limits.lost_after_s and server.report.state != "starting"
        ]
        answered = [server.report for server in asked if server.report.answered == move.id]
        refusals = [f"{report.id}: {report.reason}" for report in answered if report.state == "refused"]
        if refusals:
            raise RolloutRefusedError(f"{move.version_id} cannot be served, nothing moved; {'; '.join(refusals)}")
        if len(answered) == len(asked):
            return tuple(report.id for report in answered)
        if time.monotonic() > deadline:
            slow = ", ".join(server.report.id for server in asked if server.report not in answered)
            raise RolloutTimeoutError(f"{slow} did not prepare {move.version_id} within {limits.prepare_s:g} s")
        time.sleep(POLL_S)


def _until_served(roster: Roster, version_id: str, members: tuple[str, ...], limits: Limits) -> None:
    deadline = time.monotonic() + limits.serve_s

    def waited_for(server: SeenServer) -> bool:
        alive = server.seen_s <= limits.lost_after_s
        return alive and server.report.id in members and server.report.serving != version_id

    while late := [server.report for server in roster.servers() if waited_for(server)]:
        if time.monotonic() > deadline:
            which = ", ".join(f"{report.id} serves {report.serving}" for report in late)
            raise RolloutUnfinishedError(f"CURRENT moved to {version_id}, but after {limits.serve_s:g} s {which}")
        time.sleep(POLL_S)
