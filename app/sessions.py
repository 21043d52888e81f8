"""Sessions of people who signed in with a key: one small file each, so that all servers of a store know them.

A session's name is a secret that only the browser has. What is stored is its hash, the key's id and the session's end,
so whoever reads the files can sign in as nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segp_cl.errors import KeepsightError

FOLDER: Final = "sessions"
MOST: Final = 1000
"""Most sessions at once; a new one ends the oldest."""
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_MAX_FILE_BYTES = 1000


class SessionsError(KeepsightError):
    """No session can be begun, because none can be stored. The message says why."""


@dataclass(frozen=True)
class Session:
    """A session that has not ended: `secret` is what its browser sends."""

    secret: str
    key_id: str
    ends_at: float

    @property
    def csrf_token(self) -> str:
        """What a page of this session sends with every change. It follows from the secret, so nothing else knows it."""
        return hmac.new(self.secret.encode(), b"keepsight csrf token", hashlib.sha256).hexdigest()

    def allows(self, token: str | None) -> bool:
        """Return whether a request's CSRF token is this session's."""
        return token is not None and hmac.compare_digest(token.encode(), self.csrf_token.encode())


class Sessions:
    """The sessions of one service, in a folder of its store.

    Args:
        store: the folder that all servers share.
        length_s: seconds after which a session ends.
        clock: returns seconds since the epoch; servers on several machines compare it.
    """

    def __init__(self, store: Path, *, length_s: float, clock: Callable[[], float] = time.time) -> None:
        self._folder = Path(store) / FOLDER
        self._length_s = length_s
        self._clock = clock

    def begin(self, key_id: str) -> Session:
        """Begin a session of a key, and remove those that have ended.

        Raises:
            SessionsError: it cannot be stored.
        """
        session = Session(secrets.token_urlsafe(32), key_id, self._clock() + self._length_s)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._tidy()
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".")  # created 0600
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump({"key_id": key_id, "ends_at": session.ends_at}, file)
                os.replace(temporary, self._path(session.secret))
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise SessionsError(f"nobody can sign in: {self._folder} cannot be written: {error.strerror}") from error
        return session

    def find(self, secret: str) -> Session | None:
        """Return the session of a secret, or None: there is none, or it has ended."""
        if not _SECRET.fullmatch(secret):
            return None
        session = self._read(self._path(secret), secret)
        return session if session is not None and session.ends_at > self._clock() else None

    def end(self, secret: str) -> None:
        """End a session, if there is one: from now on no server knows it."""
        if _SECRET.fullmatch(secret):
            with contextlib.suppress(OSError):
                self._path(secret).unlink(missing_ok=True)

    def _path(self, secret: str) -> Path:
        return self._folder / hashlib.sha256(secret.encode()).hexdigest()

    @staticmethod
    def _read(path: Path, secret: str) -> Session | None:
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(_MAX_FILE_BYTES))
            return Session(secret, str(document["key_id"]), float(document["ends_at"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None  # what cannot be read lets nobody in

    def _tidy(self) -> None:
        now, left = self._clock(), []
        for path in self._folder.iterdir():
            if path.name.startswith("."):  # another server's that is being written, or what a killed one left
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < now - self._length_s:
                        path.unlink()
                continue
            session = self._read(path, "")
            if session is not None and session.ends_at > now:
                left.append((session.ends_at, path))
            else:
                path.unlink(missing_ok=True)
        for _, path in sorted(left)[: max(0, len(left) - MOST + 1)]:
            path.unlink(missing_ok=True)
