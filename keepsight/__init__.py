"""What a user types and imports: the command line, the clients, the demo. It speaks HTTP and starts processes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keepsight.async_client import AsyncClient
    from keepsight.client import Client
    from keepsight.errors import ApiError, ServiceUnreachableError
    from keepsight.retries import Retries

__all__ = ["ApiError", "AsyncClient", "Client", "Retries", "ServiceUnreachableError"]

_MODULES = {
    "ApiError": "keepsight.errors",
    "AsyncClient": "keepsight.async_client",
    "Client": "keepsight.client",
    "Retries": "keepsight.retries",
    "ServiceUnreachableError": "keepsight.errors",
}

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        """Import what is asked for, so that `keepsight --help` needs no HTTP library."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)
