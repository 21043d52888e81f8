"""Who may do what: the one place where keys and sessions are checked, for the API and for the page."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from app.errors import ForbiddenError, UnauthorizedError
from app.local_only import SAFE_METHODS, check_from_here
from app.services import Services
from app.sessions import Session
from keepsight.keys import SCOPES, Key

COOKIE = "keepsight_session"
CSRF_HEADER = "X-CSRF-Token"


@dataclass(frozen=True)
class Caller:
    """The caller of a request: a key's name and id, or `local` where no keys exist.

    `session` is how a browser presented the key; None for a key that was sent itself.
    """

    name: str
    key_id: str
    scopes: tuple[str, ...] = SCOPES
    session: Session | None = None

    @property
    def csrf_token(self) -> str | None:
        """What this caller's pages send with every change; None where that is not asked for."""
        return None if self.session is None else self.session.csrf_token


LOCAL = Caller("local", "local")


async def admit(request: Request, services: Services, *, token: str | None, scope: str | None) -> Caller:
    """Return the caller of a request, if it has `scope`, or any valid key if None. No scope contains another.

    A key comes as `token`, or by the cookie of a session that was begun with it. Where there are no keys, the request
    must come from this machine.

    Raises:
        UnauthorizedError: there is no valid key.
        ForbiddenError: the key lacks the scope; the CSRF token of a session's change is missing; or there are no keys,
            and the request comes from elsewhere.
        KeyFileError: the keys cannot be read.
    """
    if not services.keys.needed() and services.settings.is_loopback:
        check_from_here(request, services.settings)
        return LOCAL
    secret = None if token else request.cookies.get(COOKIE)
    # sessions lie in the store, and a disk that hangs must not keep others waiting
    session = None if secret is None else await services.pools.store.run(services.sessions.find, secret)
    if token:
        key = services.keys.verify(token)
        refusal = "the API key is unknown or was revoked"
    else:
        key = None if session is None else services.keys.living(session.key_id)
        refusal = (
            "send an API key: 'Authorization: Bearer ks_…' or 'X-API-Key: ks_…'"
            if secret is None
            else "the session has ended, or its key was revoked; sign in again"
        )
    if key is None:
        raise UnauthorizedError(refusal)
    if session is not None and request.method not in SAFE_METHODS:
        _check_csrf(request, session)
    _check_scope(key, scope)
    return Caller(key.name, key.id, key.scopes, session)


def _check_csrf(request: Request, session: Session) -> None:
    if not session.allows(request.headers.get(CSRF_HEADER)):
        raise ForbiddenError(
            f"a session changes nothing without its own {CSRF_HEADER}, which its pages have; load the page again"
        )


def _check_scope(key: Key, scope: str | None) -> None:
    if scope is not None and scope not in key.scopes:
        raise ForbiddenError(
            f"the key {key.name!r} lacks the scope {scope!r}; it has {', '.join(key.scopes)}",
            extensions={"missing_scope": scope},
        )
