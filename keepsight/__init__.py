"""What a user types and imports. `keepsight.client` is all that a program needs; its names can be had from here too."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keepsight.client import (
        ApiError,
        AsyncClient,
        Client,
        ClientError,
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
    "Retries",
    "ServiceUnreachableError",
    "UploadError",
    "__version__",
]

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        """Import what is asked for, so that `keepsight --help` needs no HTTP library."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("keepsight.client"), name)
