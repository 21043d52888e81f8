"""The command line and the client. Programs need only `keepsight.client`, whose names are importable from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keepsight.client import (
        ApiError,
        AsyncClient,
        Client,
        ClientError,
        DownloadError,
        Retries,
        ServiceUnreachableError,
        UploadError,
        __version__,
    )

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

if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a name on first use, so that `keepsight --help` needs no HTTP library."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("keepsight.client"), name)
