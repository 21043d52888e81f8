"""Dependencies that routes name as types: the services, and a caller with a scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from app.errors import ForbiddenError, UnauthorizedError
from app.services import Services
from app.settings import is_loopback

_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer ks_…`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key in its own header.")


@dataclass(frozen=True)
class Caller:
    """The caller of a request: a key's name and id, or `local` where no keys exist."""

    name: str
    key_id: str


LOCAL = Caller("local", "local")


async def get_services(request: Request) -> Services:
    """Return the services of this app. Asynchronous, because FastAPI runs other dependencies in a thread."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


def requires(scope: str | None) -> Callable[..., Awaitable[Caller]]:
    """Return a dependency that admits keys with `scope`, or any valid key if None. No scope contains another."""

    async def dependency(
        request: Request,
        services: ServicesDep,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> Caller:
        token = bearer.credentials if bearer else header
        if not services.keys.list() and services.settings.is_loopback:
            _check_from_here(request, services.settings.cors_origins)
            return LOCAL
        if not token:
            raise UnauthorizedError("send an API key: 'Authorization: Bearer ks_…' or 'X-API-Key: ks_…'")
        key = services.keys.verify(token)
        if key is None:
            raise UnauthorizedError("the API key is unknown or was revoked")
        if scope is not None and scope not in key.scopes:
            raise ForbiddenError(
                f"the key {key.name!r} lacks the scope {scope!r}; it has {', '.join(key.scopes)}",
                extensions={"missing_scope": scope},
            )
        return Caller(key.name, key.id)

    return dependency


def _check_from_here(request: Request, cors_origins: Collection[str]) -> None:
    """Admit only this machine: without keys, a web page could reach the server through a visitor's browser.

    Pages of an origin that the settings name are admitted; `*` names none.
    """
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    origin = request.headers.get("origin")
    origin_host = (urlsplit(origin).hostname or "") if origin else "localhost"
    if not (is_loopback(host) and (is_loopback(origin_host) or origin in cors_origins)):
        raise ForbiddenError(
            "without API keys, only requests from and to this machine are answered; create a key with `keepsight keys`"
        )


ClassifyCaller = Annotated[Caller, Depends(requires("classify"))]
TrainCaller = Annotated[Caller, Depends(requires("train"))]
AdminCaller = Annotated[Caller, Depends(requires("admin"))]
AnyCaller = Annotated[Caller, Depends(requires(None))]
