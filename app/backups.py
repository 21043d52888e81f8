"""Sends backups: one at a time, made while it is sent, in a thread of low priority."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from model_store.backup_stream import backup_pieces
from model_store.types import StoreBusyError
from segp_cl.runtime.process import short_turns, yield_to_others

logger = logging.getLogger(__name__)

FILENAME = "keepsight-backup.tar"


class Backups:
    """The backup that this server sends, if it sends one.

    Args:
        store: the store's folder.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="backup", initializer=yield_to_others)
        self._sending = False

    def response(self, who: str) -> Response:
        """Return the answer that sends a backup. It ends when the client hangs up.

        Raises:
            StoreBusyError: another one is being sent.
        """
        if self._sending:
            raise StoreBusyError("this server sends a backup already; wait until it is complete")
        self._sending = True
        return _SentBackup(self, who)

    async def pieces(self, who: str) -> AsyncIterator[bytes]:
        """Yield the archive, and log how much of it was sent."""
        loop, made, sent = asyncio.get_running_loop(), backup_pieces(self._store), 0
        try:
            while piece := await loop.run_in_executor(self._pool, _next, made):
                yield piece
                sent += len(piece)
            logger.info("a backup was sent to key=%s bytes=%d", who, sent)
        except BaseException:
            logger.warning("a backup to key=%s ended after %d bytes", who, sent)
            raise

    def ended(self) -> None:
        """Let the next one begin."""
        self._sending = False

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _next(made: Iterator[bytes]) -> bytes:
    with short_turns():
        return next(made, b"")


class _SentBackup(StreamingResponse):
    def __init__(self, backups: Backups, who: str) -> None:
        headers = {"Content-Disposition": f'attachment; filename="{FILENAME}"'}
        super().__init__(backups.pieces(who), media_type="application/x-tar", headers=headers)
        self._backups = backups

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._backups.ended()
