"""Maps exceptions to answers in one table: every error is answered with RFC 9457 problem details."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.errors import (
    ArchiveError,
    ArchiveTooLargeError,
    BodyTooLargeError,
    BusyError,
    DeadlineError,
    ForbiddenError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    ImageTooLargeError,
    InferenceError,
    InvalidRequestError,
    JobFinishedError,
    ModelNotFoundError,
    NoContributionsError,
    NotEvaluatedError,
    NotReadyError,
    SpoolFullError,
    SpoolUnusableError,
    StaleError,
    StoppingError,
    SwapTimeoutError,
    TaskRefusedError,
    TooManyConnectionsError,
    TooManyPixelsError,
    UnauthorizedError,
    UnknownArchiveError,
)
from app.wire.root import route_path
from exchange.corrections import (
    CorrectionNotFoundError,
    CorrectionsBusyError,
    CorrectionsFullError,
    NoCorrectionsError,
)
from exchange.jobs import JobNotFoundError
from exchange.redis_client import BrokerUnavailableError
from exchange.rollout import RolloutBusyError, RolloutRefusedError, RolloutTimeoutError, RolloutUnfinishedError
from keepsight.keys import KeyFileError
from model_store.types import (
    ConflictError,
    CorruptTestSetError,
    CorruptVersionError,
    DamagedPointerError,
    ExistingTestSetError,
    HeldError,
    InvalidTestSetNameError,
    InvalidVersionIdError,
    NoCommonAncestorError,
    NoRoomForTestSetError,
    NoSuchTestSetError,
    NothingToRollBackToError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    VersionNotFoundError,
)
from segp_cl.errors import (
    ClassExistsError,
    ClassNotFoundError,
    ImageDecodeError,
    IncompatibleStateError,
    InvalidTaskError,
    KeepsightError,
)
from segp_cl.runtime.classifier import NoClassesError
from segp_cl.runtime.export import ExportError, ExportUnavailableError
from segp_cl.runtime.golden import GoldenAnswersError

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"


MAX_ERRORS = 20
"""Most errors of one request that are told."""
MAX_WORDS = 300
"""Most characters of a name or a message in the list of errors."""
MAX_DETAIL = 2000
"""Most characters of a problem's `detail`."""


def invalid_body(error: ValidationError) -> RequestValidationError:
    """Return the error that FastAPI would raise for a body that a route parses itself."""
    return RequestValidationError(
        [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_url=False, include_input=False)]
    )


def cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters that any encoding can hold: it may repeat what a client sent."""
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return short.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class Answer:
    """The answer to one kind of exception."""

    status: int
    slug: str
    title: str
    retry_after_s: int | None = None


TABLE: Mapping[type[Exception], Answer] = {
    InvalidRequestError: Answer(422, "invalid-request", "The request is invalid"),
    UnauthorizedError: Answer(401, "unauthorized", "A valid API key is needed"),
    ForbiddenError: Answer(403, "forbidden", "Not allowed"),
    BusyError: Answer(429, "busy", "Too many requests in progress", 1),
    ModelNotFoundError: Answer(404, "model-not-found", "That model is not served here"),
    TooManyConnectionsError: Answer(503, "too-many-connections", "Too many connections are open", 1),
    StoppingError: Answer(503, "stopping", "The server is stopping", 2),
    DeadlineError: Answer(504, "deadline-exceeded", "The answer took too long", 1),
    InferenceError: Answer(500, "inference-failed", "The model could not answer"),
    NotReadyError: Answer(503, "not-ready", "No version is being served yet", 2),
    StaleError: Answer(503, "stale", "This server must catch up with the others first", 1),
    NoClassesError: Answer(409, "no-classes", "The served version knows no classes"),
    BodyTooLargeError: Answer(413, "body-too-large", "The body is too large"),
    ImageTooLargeError: Answer(413, "image-too-large", "The image is too large"),
    TooManyPixelsError: Answer(413, "too-many-pixels", "The images have too many pixels"),
    ImageDecodeError: Answer(422, "undecodable-image", "The image cannot be decoded"),
    ArchiveError: Answer(422, "archive-refused", "The archive is refused"),
    ArchiveTooLargeError: Answer(413, "archive-too-large", "The archive unpacks to too much"),
    UnknownArchiveError: Answer(415, "unknown-archive", "The archive's format is not supported"),
    TaskRefusedError: Answer(422, "invalid-task", "The task cannot be learned"),
    SpoolFullError: Answer(507, "spool-full", "There is no room for the upload", 60),
    SpoolUnusableError: Answer(503, "spool-unusable", "The upload cannot be kept", 60),
    InvalidTaskError: Answer(422, "invalid-task", "The task cannot be learned"),
    ClassNotFoundError: Answer(404, "class-not-found", "No such class"),
    ClassExistsError: Answer(409, "class-exists", "A class is already known"),
    IdempotencyMismatchError: Answer(422, "idempotency-mismatch", "The Idempotency-Key was used for something else"),
    IdempotencyInProgressError: Answer(
        409, "idempotency-in-progress", "The first request with this key is in progress", 2
    ),
    JobNotFoundError: Answer(404, "job-not-found", "No such job"),
    JobFinishedError: Answer(409, "job-finished", "The job is already over"),
    VersionNotFoundError: Answer(404, "version-not-found", "No such version"),
    InvalidVersionIdError: Answer(404, "version-not-found", "No such version"),
    DamagedPointerError: Answer(409, "current-damaged", "CURRENT does not name a version"),
    CorruptVersionError: Answer(409, "version-corrupt", "The version's files are damaged"),
    IncompatibleStateError: Answer(409, "version-incompatible", "The version belongs to another base model"),
    HeldError: Answer(409, "held", "The version is held by the gate"),
    ConflictError: Answer(409, "pointer-moved", "CURRENT is not what was expected"),
    ExportUnavailableError: Answer(501, "export-unavailable", "Exports of this format are not installed"),
    ExportError: Answer(409, "export-failed", "The version cannot be exported"),
    NoContributionsError: Answer(404, "no-contributions", "The version has no contributions"),
    NoSuchTestSetError: Answer(404, "test-set-not-found", "No such test set"),
    InvalidTestSetNameError: Answer(422, "invalid-request", "The request is invalid"),
    ExistingTestSetError: Answer(409, "test-set-exists", "There is another test set of that name"),
    NoRoomForTestSetError: Answer(413, "test-set-too-large", "There is no room for the test set"),
    CorruptTestSetError: Answer(409, "test-set-corrupt", "The test set's files are damaged"),
    NotEvaluatedError: Answer(409, "not-evaluated", "A version was not measured yet"),
    NoCommonAncestorError: Answer(409, "no-common-ancestor", "The versions cannot be merged"),
    CorrectionNotFoundError: Answer(404, "correction-not-found", "No such correction waits"),
    CorrectionsFullError: Answer(507, "corrections-full", "No more corrections are kept", 60),
    CorrectionsBusyError: Answer(503, "corrections-busy", "Another process is at the corrections", 2),
    NoCorrectionsError: Answer(409, "no-corrections", "There is nothing to learn"),
    NothingToRollBackToError: Answer(409, "nothing-to-roll-back-to", "There is no earlier version"),
    SwapTimeoutError: Answer(504, "swap-timeout", "The version is not served everywhere yet"),
    RolloutUnfinishedError: Answer(504, "swap-timeout", "The version is not served everywhere yet"),
    RolloutTimeoutError: Answer(504, "rollout-timeout", "Not every server could be made ready", 5),
    RolloutRefusedError: Answer(409, "rollout-refused", "A server cannot serve the version"),
    RolloutBusyError: Answer(503, "rollout-busy", "Another version is being rolled out", 2),
    GoldenAnswersError: Answer(409, "version-check-failed", "The version does not answer as when it was published"),
    StoreFullError: Answer(507, "store-full", "There is no room left in the store", 60),
    StoreBusyError: Answer(503, "store-busy", "Another process is changing the store", 2),
    StoreError: Answer(503, "store-error", "The store cannot do this", 60),
    BrokerUnavailableError: Answer(503, "broker-unavailable", "The job queue cannot be reached", 5),
    KeyFileError: Answer(503, "keys-unreadable", "The API keys cannot be read", 60),
    ClientDisconnect: Answer(400, "client-disconnected", "The client hung up before its body was complete"),
    KeepsightError: Answer(500, "internal-error", "Keepsight could not do this"),
}


def answer_for(error: Exception) -> Answer:
    """Return the row of `TABLE` for an exception: that of its class, else of its nearest base class."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return Answer(500, "internal-error", "Something went wrong inside the server")


def problem(status: int, slug: str, title: str, detail: str | None, /, **extensions: Any) -> dict[str, Any]:
    """Return a problem document (RFC 9457, section 3). Extension members never replace the standard ones."""
    standard = {"type": f"urn:keepsight:problem:{slug}", "title": title, "status": status, "detail": detail}
    return {**extensions, **{name: value for name, value in standard.items() if value is not None}}


def phrase_problem(status: int, detail: str | None) -> dict[str, Any]:
    """Return a problem document that is named after one of HTTP's own statuses."""
    phrase = HTTPStatus(status).phrase
    slug = phrase.lower().replace(" ", "-").replace("'", "")
    return problem(status, slug, phrase, None if detail in (None, phrase) else cut(str(detail), MAX_DETAIL))


def problem_of(error: Exception) -> dict[str, Any]:
    """Return the problem document of an exception. Only the messages of Keepsight's own errors are included."""
    answer = answer_for(error)
    public = isinstance(error, KeepsightError | KeyFileError)
    extensions = getattr(error, "extensions", {}) if public else {}
    detail = cut(str(error), MAX_DETAIL) if public else None
    return problem(answer.status, answer.slug, answer.title, detail, **extensions)


def problem_response(document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an HTTP response with a problem document."""
    return JSONResponse(
        dict(document), status_code=int(document["status"]), headers=dict(headers or {}), media_type=PROBLEM_JSON
    )


def response_for(error: Exception, path: str = "") -> JSONResponse:
    """Return the response to an exception on a route's path, with the headers that its status requires."""
    answer = answer_for(error)
    headers = {}
    if answer.retry_after_s is not None:
        headers["Retry-After"] = str(answer.retry_after_s)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="keepsight"'
    return problem_response(_spoken(problem_of(error), path), headers)


def _spoken(document: dict[str, Any], path: str) -> dict[str, Any]:
    """Add `error` under /v2, the only member that clients of the Open Inference Protocol show."""
    return {**document, "error": document.get("detail", document["title"])} if path.startswith("/v2") else document


def install(app: FastAPI) -> None:
    """Answer every error of `app` with problem details; under /v2 they include the protocol's `error`."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        if answer_for(error).status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            logger.warning("%s %s: %s", request.method, route_path(request.scope), error)
        return response_for(error, route_path(request.scope))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        document = phrase_problem(error.status_code, str(error.detail))
        return problem_response(_spoken(document, route_path(request.scope)), error.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = error.errors()
        # the input is left out: it may be an image
        errors = [
            {"where": [cut(str(part), MAX_WORDS) for part in e["loc"]], "message": cut(e["msg"], MAX_WORDS)}
            for e in found[:MAX_ERRORS]
        ]
        detail = "; ".join(f"{'.'.join(e['where'][1:]) or e['where'][0]}: {e['message']}" for e in errors[:5])
        if len(found) > MAX_ERRORS:
            detail = f"{len(found)} errors, of which {MAX_ERRORS} are told; {detail}"
        answer = TABLE[InvalidRequestError]
        document = problem(answer.status, answer.slug, answer.title, cut(detail, MAX_DETAIL), errors=errors)
        return problem_response(_spoken(document, route_path(request.scope)))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return response_for(error, route_path(request.scope))  # the server's own error log holds the traceback

    app.add_exception_handler(KeepsightError, known)
    app.add_exception_handler(KeyFileError, known)
    app.add_exception_handler(ClientDisconnect, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)
