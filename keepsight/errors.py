"""What goes wrong for someone who types a command: one sentence each, and an exit code."""

from __future__ import annotations


class CommandError(Exception):
    """A command cannot do what was asked. The message is one sentence for the person who typed it."""

    exit_code = 1


class ServiceUnreachableError(CommandError):
    """Nothing answers at the service's address."""


class ApiError(CommandError):
    """The service answered with an error (RFC 9457 problem details where it could)."""

    def __init__(self, status: int, detail: str, *, problem: dict[str, object] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.problem = problem or {}


class StartError(CommandError):
    """`keepsight up` cannot start, or a part of it died."""
