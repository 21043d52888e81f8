"""What goes wrong between a program and the service, as one family with one sentence each."""

from __future__ import annotations


class ClientError(Exception):
    """A call could not be made, or was not answered as asked. The message says why."""


class ServiceUnreachableError(ClientError):
    """Nothing answers at the service's address, or the connection broke.

    Attributes:
        connected: Whether a connection stood before.
    """

    def __init__(self, message: str, *, connected: bool = False) -> None:
        super().__init__(message)
        self.connected = connected


class ApiError(ClientError):
    """The service answered with an error.

    Attributes:
        status: The HTTP status.
        problem: The RFC 9457 problem details, where the answer had some.
    """

    def __init__(self, status: int, detail: str, *, problem: dict[str, object] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.problem = problem or {}


class UploadError(ClientError):
    """Images or an archive cannot be read from the disk."""
