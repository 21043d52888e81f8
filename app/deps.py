"""Dependencies that routes name as types: the services, and a caller with a scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from app.access import Caller, admit
from app.local_only import check_from_here
from app.services import Services
from keepsight.keys import KeyFileError

_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer ks_…`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key in its own header.")


async def get_services(request: Request) -> Services:
    """Return the services of this app. Asynchronous, because FastAPI runs other dependencies in a thread."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


def requires(scope: str | None) -> Callable[..., Awaitable[Caller]]:
    """Return a dependency that admits callers with `scope`, or with any valid key if None."""

    async def dependency(
        request: Request,
        services: ServicesDep,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> Caller:
        token = bearer.credentials if bearer else header
        return await admit(request, services, token=token, scope=scope)

    return dependency


async def from_here_if_keyless(request: Request, services: ServicesDep) -> None:
    """Admit everybody where there are keys, else this machine alone: for routes that need no key but tell something."""
    try:
        keyless = not services.keys.needed()
    except KeyFileError:
        keyless = False
    if keyless and services.settings.is_loopback:
        check_from_here(request, services.settings)


ClassifyCaller = Annotated[Caller, Depends(requires("classify"))]
TrainCaller = Annotated[Caller, Depends(requires("train"))]
AdminCaller = Annotated[Caller, Depends(requires("admin"))]
AnyCaller = Annotated[Caller, Depends(requires(None))]
