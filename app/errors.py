"""The server's errors, as one family. `app.problems` maps each to an HTTP answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segp_cl.errors import KeepsightError


class AppError(KeepsightError):
    """Base class of the server's own errors. `extensions` become members of the problem document."""

    def __init__(self, message: str, *, extensions: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.extensions: Mapping[str, Any] = extensions or {}


class InvalidRequestError(AppError):
    """The request is well formed, but what it asks for is invalid."""


class UnauthorizedError(AppError):
    """No API key was sent, or it is unknown or revoked."""


class ForbiddenError(AppError):
    """The key lacks a scope, or there are no keys and the request does not come from this machine."""


class NoContributionsError(AppError):
    """Nothing was told before the version was learned: there were no classes yet, or it was not trained."""


class NotEvaluatedError(AppError):
    """A version was not measured on a test set yet; `measure` names the command that does it."""

    def __init__(self, versions: Sequence[str], test_set: str | None) -> None:
        on = "any test set" if test_set is None else f"the test set {test_set}"
        command = " ".join(["keepsight evaluate", *versions, *(() if test_set is None else ("--test-set", test_set))])
        super().__init__(
            f"{' and '.join(versions)} {'was' if len(versions) == 1 else 'were'} not measured on {on}: {command}",
            extensions={"measure": command, "versions": list(versions), "test_set": test_set},
        )


class BusyError(AppError):
    """The server already handles the most requests that are allowed."""


class ModelNotFoundError(AppError):
    """An Open Inference route names a model or version that this server does not serve."""


class TooManyConnectionsError(AppError):
    """The server has as many connections as it may have, and all of them are in use."""


class StoppingError(AppError):
    """The server is stopping and accepts no new requests."""


class DeadlineError(AppError):
    """The answer was not ready in time."""


class InferenceError(AppError):
    """The model's output for an image is unusable."""


class NotReadyError(AppError):
    """No version is loaded."""


class StaleError(NotReadyError):
    """This server may serve another version than the others, and must catch up before it answers."""


class BodyTooLargeError(AppError):
    """The request's body has more bytes than its route allows."""


class ImageTooLargeError(AppError):
    """One image has more bytes than allowed."""


class TooManyPixelsError(AppError):
    """The images of one request have more pixels together than allowed."""


class ArchiveError(AppError):
    """The whole upload is refused. The message says why and, if possible, which entry is wrong."""


class ArchiveTooLargeError(ArchiveError):
    """The upload unpacks to more than is allowed."""


class UnknownArchiveError(ArchiveError):
    """The upload is in a format that Keepsight does not read."""


class TaskRefusedError(AppError):
    """The upload can be read but not learned: a class has an invalid name or no images."""


class SpoolFullError(AppError):
    """The spool has no room for the upload."""


class SpoolUnusableError(AppError):
    """The spool cannot keep the upload: it is read-only, gone, or the system refuses to write."""


class IdempotencyMismatchError(AppError):
    """An Idempotency-Key was sent again with a different request."""


class IdempotencyInProgressError(AppError):
    """The first request with this Idempotency-Key is still being processed."""


class JobFinishedError(AppError):
    """The job has ended, so it cannot be cancelled."""


class SwapTimeoutError(AppError):
    """CURRENT moved, but this server does not serve the version yet."""
