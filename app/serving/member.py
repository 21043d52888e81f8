"""This server's part in a rollout: reports its state, and prepares the version that is about to be served.

The other side of the protocol is `exchange.rollout`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from app.offload import in_thread
from app.serving.live_model import LiveModel
from app.serving.watcher import Watcher
from exchange.redis_client import BrokerUnavailableError
from exchange.roster import Move, Roster, ServerFigures, ServerReport, ServerState
from model_store.types import VersionId

logger = logging.getLogger(__name__)


def new_server_id() -> str:
    """Return a unique name for this server, by which an operator can find the process."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


class Member:
    """Reports to the roster every `beat_s` seconds and whenever something changes.

    Args:
        server_id: this server's name.
        roster: the store's servers; Redis may be gone.
        live: the version that is served.
        device: where the model runs, for display.
        beat_s: seconds between two reports.
        figures: returns what this server has done so far.

    Attributes:
        refusal: why the last requested version cannot be served here.
        reaches_broker: whether the last report reached Redis.
    """

    def __init__(
        self,
        server_id: str,
        *,
        roster: Roster,
        live: LiveModel,
        device: str,
        beat_s: float,
        figures: Callable[[], ServerFigures | None] = lambda: None,
    ) -> None:
        self.id = server_id
        self._roster = roster
        self._live = live
        self._device = device
        self._beat_s = beat_s
        self._figures = figures
        self._woken = asyncio.Event()
        self._asked: Move | None = None
        self._answered: str | None = None
        self.refusal: Exception | None = None
        self.reaches_broker = False
        self._failed = False
        self._preparing: asyncio.Task[None] | None = None
        self._watcher: Watcher | None = None
        # its own thread: a report must not wait for uploads or for a version to load
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="roster")

    async def join(self, watcher: Watcher) -> None:
        """Join the roster before any request is answered, or later if Redis is gone."""
        self._watcher = watcher
        await self.beat()

    async def run(self) -> None:
        """Report until cancelled."""
        try:
            while True:
                await self.beat()
                try:
                    async with asyncio.timeout(self._beat_s):  # wait_for would swallow a cancellation that meets a wake
                        await self._woken.wait()
                except TimeoutError:
                    continue
                finally:
                    self._woken.clear()
        finally:
            if self._preparing is not None:
                self._preparing.cancel()

    def wake(self) -> None:
        """Report now."""
        self._woken.set()

    async def beat(self) -> None:
        """Report once, and begin to prepare the version that the reply names. Does nothing if Redis is gone."""
        loop = asyncio.get_running_loop()
        try:
            state, failed = self._report(), self._failed
            # counting takes milliseconds, which the event loop has not
            move = await loop.run_in_executor(
                self._pool, lambda: self._roster.report(self._with_figures(state), after_failure=failed)
            )
        except BrokerUnavailableError as error:
            logger.debug("could not report: %s", error)
            self.reaches_broker, self._failed = False, True
            return
        except Exception:  # whatever lies in Redis must not end the reports
            logger.exception("the last move cannot be read")
            self.reaches_broker, self._failed = True, False
            return
        self.reaches_broker, self._failed = True, False
        self._heed(move)

    async def left_out(self, version_id: VersionId) -> bool | None:
        """Return whether the other servers moved to `version_id` without this one; None if Redis is gone."""
        loop = asyncio.get_running_loop()
        try:
            members = await loop.run_in_executor(self._pool, self._roster.members, version_id)
        except BrokerUnavailableError:
            return None
        except Exception:
            logger.exception("it cannot be read which servers were moved")
            return None
        return members is not None and self.id not in members

    async def served_elsewhere(self, version_id: VersionId) -> bool:
        """Return whether another living server serves a version, as far as Redis knows."""
        loop = asyncio.get_running_loop()
        try:
            servers = await loop.run_in_executor(self._pool, self._roster.servers)
        except BrokerUnavailableError:
            return False
        except Exception:
            logger.exception("it cannot be read what the other servers serve")
            return False
        return any(
            seen.report.serving == version_id and seen.report.id != self.id and seen.seen_s <= 5 * self._beat_s
            for seen in servers
        )

    async def leave(self) -> None:
        """Take this server off the roster, because it stops."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._roster.leave, self.id)
        except BrokerUnavailableError as error:
            logger.debug("could not leave the roster: %s", error)
        self._pool.shutdown()

    def _heed(self, move: Move | None) -> None:
        assert self._watcher is not None, "join sets it"
        if move is not None and move.state == "preparing":
            if self._asked is None or self._asked.id != move.id:
                self._asked = move
                self._preparing = asyncio.create_task(self._prepare(move, self._watcher))
        elif self._asked is not None:
            if move is None or move.state == "abandoned":
                self._watcher.discard()
            self._asked = None

    async def _prepare(self, move: Move, watcher: Watcher) -> None:
        try:
            await watcher.prepare(move.version_id)
        except Exception as error:  # whatever is wrong with a version, the rollout must learn of it
            logger.error("cannot prepare %s: %s", move.version_id, error)
            self.refusal = error
        else:
            self.refusal = None
            if self._asked is not move:  # the rollout was abandoned meanwhile
                watcher.discard()
        self._answered = move.id
        self.wake()

    async def report(self) -> ServerReport:
        """Return what this server reports now."""
        return await in_thread(self._with_figures, self._report())

    def _with_figures(self, report: ServerReport) -> ServerReport:
        return report.model_copy(update={"figures": self._figures()})

    def _report(self) -> ServerReport:
        state, reason = self._state()
        return ServerReport(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            serving=self._live.version_id,
            prepared=None if self._watcher is None else self._watcher.prepared,
            state=state,
            answered=self._answered,
            reason=reason,
        )

    def _state(self) -> tuple[ServerState, str | None]:
        watcher = self._watcher
        if self._asked is not None:
            if self._answered != self._asked.id:
                return "loading", None
            if self.refusal is not None:
                return "refused", str(self.refusal) or type(self.refusal).__name__
            if self._live.version_id != self._asked.version_id:
                return "ready", None
        if watcher is not None and watcher.failure is not None:
            return "behind", watcher.failure.reason
        if self._live.version_id is None:
            return "starting", None
        if watcher is not None and watcher.loading:
            return "loading", None
        return "serving", None
