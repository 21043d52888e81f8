"""Rollouts: all servers prepare a version and acknowledge it, then CURRENT moves to it.

Begin with `move_current`, which serves a promotion, a rollback and a worker's new version alike.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from exchange.redis_client import BrokerUnavailableError
from exchange.roster import Move, Roster, SeenServer
from exchange.settings import SharedSettings
from segp_cl.errors import KeepsightError

logger = logging.getLogger(__name__)

POLL_S = 0.005


class RolloutError(KeepsightError):
    """CURRENT did not move, or it moved and some servers do not serve the version yet."""


class RolloutBusyError(RolloutError):
    """Another rollout did not end in time. Nothing moved."""


class RolloutRefusedError(RolloutError):
    """A server cannot serve the version. Nothing moved."""


class RolloutTimeoutError(RolloutError):
    """A live server did not say in time whether it can serve the version. Nothing moved."""


class RolloutUnfinishedError(RolloutError):
    """CURRENT moved, but a live server did not serve the version in time."""


@dataclass(frozen=True)
class Limits:
    """How long a rollout waits, in seconds.

    Attributes:
        turn_s: for another rollout to end; longer than `hold_s`, so that the turn of a mover that died is waited for.
        prepare_s: for all servers to prepare the version.
        serve_s: for all servers to serve it, once CURRENT has moved.
        lost_after_s: silence after which a server counts as dead.
        hold_s: silence after which a mover counts as dead and loses its turn.
    """

    turn_s: float = 15.0
    prepare_s: float = 60.0
    serve_s: float = 60.0
    lost_after_s: float = 5.0
    hold_s: float = 10.0

    @classmethod
    def of(cls, settings: SharedSettings) -> Limits:
        """Return the limits that the settings of server and worker give."""
        timeout_s, lost_after_s = settings.swap_timeout_s, settings.server_lost_after_s
        hold_s = 2 * lost_after_s
        return cls(hold_s + 5, prepare_s=timeout_s, serve_s=timeout_s, lost_after_s=lost_after_s, hold_s=hold_s)


@dataclass(frozen=True)
class RolledOut:
    """A finished rollout. `commit_s` runs from the move of CURRENT until all of `members` serve the version."""

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
    """Roll out a version; if the broker does not answer, move CURRENT without asking the servers, which follow it.

    In the second case `prepare_here` checks that the version can be served before CURRENT moves.

    Args:
        roster: the store's servers.
        version_id: where CURRENT moves.
        move_pointer: moves CURRENT, unless it was moved since this move was asked for; if it raises, nothing has moved.
        limits: how long to wait.
        prepare_here: opens the version in this process; if it raises, nothing has moved.

    Returns:
        The finished rollout; without the broker, `members` is empty: no server is known to serve the version yet.

    Raises:
        RolloutError: see its subclasses.
    """
    try:
        return roll_out(roster, version_id, move_pointer, limits=limits)
    except BrokerUnavailableError as error:
        logger.warning("moving CURRENT to %s without asking the servers: %s", version_id, error)
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
    """Have all live servers prepare `version_id`, move CURRENT to it, and return once all of them serve it.

    A server that dies meanwhile is not waited for: it was not ready, so if it comes back, it refuses requests until it
    serves CURRENT. A server that is still starting is not asked; it reads CURRENT before it answers requests.

    Args:
        roster: the store's servers.
        version_id: where CURRENT moves.
        move_pointer: moves CURRENT; if it raises, nothing has moved, and the servers are told.
        limits: how long to wait.

    Raises:
        BrokerUnavailableError: the broker does not answer; nothing moved.
        RolloutError: see its subclasses.
    """
    begun = time.monotonic()
    move = _begin(roster, version_id, limits)
    with _keeping_the_turn(roster, move, limits.hold_s):
        try:
            members = _until_ready(roster, move, limits)
            if not roster.commit(move, members):
                raise RolloutTimeoutError(f"the rollout of {version_id} took too long, and another may have begun")
            ready = time.monotonic()
            move_pointer()
        except BaseException:
            _end(roster, move, abandoned=True)
            raise
        try:
            roster.wake(version_id)
            _until_served(roster, version_id, members or (), limits)
        except BrokerUnavailableError as error:
            logger.warning("CURRENT moved to %s, but it is not known which servers serve it: %s", version_id, error)
        finally:
            _end(roster, move, abandoned=False)
    return RolledOut(members or (), prepare_s=ready - begun, commit_s=time.monotonic() - ready)


@contextmanager
def _keeping_the_turn(roster: Roster, move: Move, hold_s: float) -> Iterator[None]:
    """Renew the turn while the block lasts and this process runs. One that is killed or stopped loses it."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(hold_s / 4):
            with suppress(BrokerUnavailableError):
                if not roster.renew(move, hold_s=hold_s):
                    return

    thread = threading.Thread(target=renew, name="turn", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _begin(roster: Roster, version_id: str, limits: Limits) -> Move:
    deadline = time.monotonic() + limits.turn_s
    while True:
        move = roster.begin(version_id, hold_s=limits.hold_s)
        if move is not None:
            return move
        if time.monotonic() > deadline:
            raise RolloutBusyError("another version is being rolled out; nothing moved")
        time.sleep(POLL_S)


def _end(roster: Roster, move: Move, *, abandoned: bool) -> None:
    try:
        roster.end(move, abandoned=abandoned)
    except BrokerUnavailableError as error:
        logger.warning("the servers could not be told that the rollout of %s ended: %s", move.version_id, error)


def _until_ready(roster: Roster, move: Move, limits: Limits) -> tuple[str, ...] | None:
    """Return the live servers once each has prepared the version; None if no server is known.

    If all are silent, the broker may have been so until now: they get the time to report again.
    """
    begun = time.monotonic()
    deadline = begun + limits.prepare_s
    while True:
        known = [server for server in roster.servers() if server.report.state != "starting"]
        asked = [server for server in known if server.seen_s <= limits.lost_after_s]
        if not known:
            return None
        if not asked and time.monotonic() < begun + limits.lost_after_s:
            time.sleep(POLL_S)
            continue
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
