"""The client's errors, as one family."""

from __future__ import annotations


class ClientError(Exception):
    """A call could not be made or has failed. The message says why."""


class ServiceUnreachableError(ClientError):
    """Nothing answers at the service's address, or the connection broke.

    Attributes:
        connected: Whether there was a connection before.
    """

    def __init__(self, message: str, *, connected: bool = False) -> None:
        super().__init__(message)
        self.connected = connected


class ApiError(ClientError):
    """The service answered with an error.

    Attributes:
        status: The HTTP status.
        problem: The RFC 9457 problem details, if the answer had any.
    """

    def __init__(self, status: int, detail: str, *, problem: dict[str, object] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.problem = problem or {}


class UploadError(ClientError):
    """Images or an archive cannot be read from the disk."""


class DownloadError(ClientError):
    """A file that the service sends cannot be written."""
