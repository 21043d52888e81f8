"""API keys in one file: hashed at rest, shown once, compared in constant time. Standard library only."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCOPES = ("classify", "train", "admin")
TOKEN_PREFIX = "ks_"  # noqa: S105 - not a password, the shape of one
MARKER = "keys-required"
"""The file in a store that says that keys were in use: from then on, their absence lets nobody in."""
_FORMAT = 1
_MAX_TOKEN_LENGTH = 200  # a longer one is none, and is not hashed
_MAX_FILE_BYTES = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


class KeyFileError(Exception):
    """The key file cannot be read, is not a key file, or cannot do what was asked. The message says which."""


class UnknownKeyError(KeyFileError):
    """No key has the given id."""


@dataclass(frozen=True)
class Key:
    """One key as it is stored. `sha256` is the hash of the token; the token itself is not stored."""

    id: str
    name: str
    scopes: tuple[str, ...]
    sha256: str
    created_at: str
    revoked_at: str | None = None


@dataclass(frozen=True)
class CreatedKey:
    """A new key with its token, which can never be shown again."""

    key: Key
    token: str


class KeyFile:
    """The keys of one service, in a JSON file that only its owner may read (0600).

    Every change writes a new file that replaces the old one, under a lock, so readers never see half a file and two
    writers never lose each other's keys. Reads notice a changed file.

    Args:
        path: the file.
        store: the folder that remembers that there were keys, if one should.
    """

    def __init__(self, path: Path, *, store: Path | None = None) -> None:
        self.path = Path(path)
        self._marker = None if store is None else Path(store) / MARKER
        self._seen = False
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()
        self._by_hash: dict[str, Key] = {}

    def create(self, name: str, scopes: Sequence[str]) -> CreatedKey:
        """Add a key.

        Raises:
            KeyFileError: the name or scopes are empty, a scope does not exist, or the file cannot be written.
        """
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise KeyFileError(f"scopes must be some of {', '.join(SCOPES)}; got {', '.join(unknown) or 'none'}")
        if not name.strip():
            raise KeyFileError("a key needs a name, so that the journal can say who moved CURRENT")
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        key = Key(
            id=secrets.token_hex(4),
            name=name.strip(),
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            sha256=_hash(token),
            created_at=_now(),
        )
        with self._exclusive():
            self._write((*self.list(), key))
        self._remember()
        return CreatedKey(key, token)

    def needed(self) -> bool:
        """Return whether a request needs a key: there is one, if only a revoked one.

        Raises:
            KeyFileError: the file cannot be read, or it held keys once and holds none now.
        """
        try:
            keys = self.list()
        except KeyFileError:
            self._seen = True  # whatever it held, it is not nothing
            raise
        if keys:
            self._remember()
            return True
        if self._seen or self._is_marked():
            raise KeyFileError(
                f"there were API keys, but {self.path} holds none now, so nobody is let in; restore the file, create a "
                "key with `keepsight keys create`, or do without keys by `keepsight keys forget` and a restart"
            )
        return False

    def forget(self) -> bool:
        """Let the store forget that there were keys; return whether it had known.

        Raises:
            KeyFileError: the file holds keys, or the store cannot be written.
        """
        if self.list():
            raise KeyFileError(f"{self.path} holds keys; remove it first, or go on with them")
        try:
            if self._marker is None or not self._is_marked():
                return False
            self._marker.unlink()
        except OSError as error:
            raise KeyFileError(f"{self._marker} cannot be removed: {error.strerror}") from error
        return True

    def list(self) -> tuple[Key, ...]:
        """Return all keys, oldest first, including revoked ones. A missing file holds none.

        Raises:
            KeyFileError: the file exists but is not a key file.
        """
        with self._lock:
            stamp = self._current_stamp()
            if stamp != self._stamp:
                self._keys = self._read() if stamp else ()
                self._by_hash = {key.sha256: key for key in self._keys}
                self._stamp = stamp
            return self._keys

    def revoke(self, key_id: str) -> Key:
        """Revoke a key from now on. Revoking it twice changes nothing.

        Raises:
            UnknownKeyError: no key has that id.
        """
        with self._exclusive():
            keys = self.list()
            found = next((key for key in keys if key.id == key_id), None)
            if found is None:
                raise UnknownKeyError(f"no key has the id {key_id!r} in {self.path}")
            if found.revoked_at is None:
                revoked = replace(found, revoked_at=_now())
                self._write(tuple(revoked if key.id == key_id else key for key in keys))
                found = revoked
        return found

    def verify(self, token: str) -> Key | None:
        """Return the valid key of `token`, or None.

        The hash of the token is looked up, and then compared in constant time: what can be learned from the time is
        about a hash, which nobody can choose.

        Raises:
            KeyFileError: the file exists but is not a key file; then no token is accepted.
        """
        self.list()
        if len(token) > _MAX_TOKEN_LENGTH:
            return None
        presented = _hash(token)
        key = self._by_hash.get(presented)
        valid = key is not None and hmac.compare_digest(presented, key.sha256) and key.revoked_at is None
        return key if valid else None

    def living(self, key_id: str) -> Key | None:
        """Return the key of this id if it was not revoked, or None.

        Raises:
            KeyFileError: the file exists but is not a key file; then no key is valid.
        """
        return next((key for key in self.list() if key.id == key_id and key.revoked_at is None), None)

    def _remember(self) -> None:
        if self._seen:
            return
        self._seen = True
        if self._marker is None or self._is_marked() or not self._marker.parent.is_dir():
            return
        try:
            self._marker.write_text(f"API keys were in use at {_now()}; `keepsight keys forget` removes this file\n")
        except OSError as error:
            logger.warning("the store cannot remember that there are API keys: %s; this process does", error.strerror)

    def _is_marked(self) -> bool:
        if self._marker is None:
            return False
        try:
            self._marker.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # nothing says that it is absent
        return True

    def _current_stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            if self.path.is_symlink():
                raise KeyFileError(f"the key file {self.path} is a link to a file that is gone") from None
            return None
        except OSError as error:
            raise KeyFileError(f"the key file {self.path} cannot be read: {error.strerror}") from error
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> tuple[Key, ...]:
        try:
            if not self.path.is_file():  # reading from a pipe or a device may never end
                raise KeyFileError(f"the key file {self.path} is not a file")
            with self.path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
            if len(content) > _MAX_FILE_BYTES:
                raise KeyFileError(f"the key file {self.path} has more than {_MAX_FILE_BYTES} bytes")
            document = json.loads(content.decode("utf-8"))
            if document["format"] != _FORMAT:
                raise KeyFileError(f"the key file {self.path} has format {document['format']!r}, expected {_FORMAT}")
            return tuple(_parse(entry) for entry in document["keys"])
        except OSError as error:
            raise KeyFileError(f"the key file {self.path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise KeyFileError(f"{self.path} is not a key file: {type(error).__name__}") from error

    def _write(self, keys: Sequence[Key]) -> None:
        document = {"format": _FORMAT, "keys": [asdict(key) for key in keys]}
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")  # created 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise KeyFileError(f"the key file {self.path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise KeyFileError(f"the key file {self.path} cannot be written: {error.strerror}") from error
        finally:
            os.close(handle)


def _parse(entry: Any) -> Key:
    fields = {name: entry[name] for name in ("id", "name", "sha256", "created_at")}
    scopes, revoked = entry["scopes"], entry.get("revoked_at")
    if not all(isinstance(value, str) for value in (*fields.values(), *scopes)):
        raise TypeError("a key's fields are strings")
    if not isinstance(scopes, list) or not fields["sha256"].isascii():
        raise TypeError("a key's scopes are a list, and its hash is hexadecimal")
    return Key(**fields, scopes=tuple(scopes), revoked_at=None if revoked is None else str(revoked))


def _hash(token: str) -> str:
    # tokens carry 256 random bits, so a fast hash protects them as well as a slow one
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
