"""The client library: `Client`, `AsyncClient`, and the errors that they raise. Needs only httpx.

`api` holds the types of answers; the other modules are parts of the clients.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keepsight.client.async_client import AsyncClient
    from keepsight.client.errors import ApiError, ClientError, DownloadError, ServiceUnreachableError, UploadError
    from keepsight.client.retries import Retries
    from keepsight.client.sync_client import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "DownloadError",
    "Retries",
    "ServiceUnreachableError",
    "UploadError",
    "__version__",
]

__version__ = "0.2.0"

_MODULES: Final = {"AsyncClient": "async_client", "Client": "sync_client", "Retries": "retries"}

if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a name on first use, so that errors and types of answers need no HTTP library."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
        globals()[name] = found
        return found
