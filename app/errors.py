"""What the server refuses, as one family. `problems` says how each leaves as HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segp_cl.errors import KeepsightError


class AppError(KeepsightError):
    """A refusal of the server itself. `extensions` become members of the problem document."""

    def __init__(self, message: str, *, extensions: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.extensions: Mapping[str, Any] = extensions or {}


class InvalidRequestError(AppError):
    """The request is well formed but asks for something that makes no sense."""


class UnauthorizedError(AppError):
    """No key was given, or none that lives."""


class ForbiddenError(AppError):
    """The key lacks a scope, or the server is open and the request comes from elsewhere."""


class BusyError(AppError):
    """As many requests as are allowed are in hand."""


class ModelNotFoundError(AppError):
    """The protocol's route names a model or version that this server does not serve."""


class StoppingError(AppError):
    """The server is being stopped and takes nothing new."""


class DeadlineError(AppError):
    """The answer was not there in time."""


class InferenceError(AppError):
    """The model gave nothing usable for an image."""


class NotReadyError(AppError):
    """No version is loaded."""


class StaleError(NotReadyError):
    """This server may be on another version than the others, and must catch up before it answers."""


class BodyTooLargeError(AppError):
    """The request's body has more bytes than its route allows."""


class ImageTooLargeError(AppError):
    """One image has more bytes than allowed."""


class ArchiveError(AppError):
    """An upload that is refused as a whole. The message says why and, where it can, which entry."""


class ArchiveTooLargeError(ArchiveError):
    """An upload that unpacks to more than allowed."""


class UnknownArchiveError(ArchiveError):
    """An upload that is none of the kinds Keepsight reads."""


class TaskRefusedError(AppError):
    """An upload that can be read but is not a task: its classes' names, or a class without images."""


class SpoolFullError(AppError):
    """There is no room for the upload."""


class IdempotencyMismatchError(AppError):
    """An Idempotency-Key came back with other content."""


class IdempotencyInProgressError(AppError):
    """The first request with this Idempotency-Key is still being taken in."""


class JobFinishedError(AppError):
    """The job is over, so it cannot be cancelled."""


class SwapTimeoutError(AppError):
    """The pointer moved, but this server does not serve the version yet."""
