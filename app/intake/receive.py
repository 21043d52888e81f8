"""Receives the form of an upload: one archive, streamed into a file without a name, and a few fields."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from app.errors import InvalidRequestError
from app.intake.keeping import keeping
from app.multipart import Form, read_form
from exchange.spool import Spool

M = TypeVar("M", bound=BaseModel)
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="A request repeated with its key creates no second job."),
]


@dataclass(frozen=True)
class Upload:
    """An uploaded archive, with its size in bytes."""

    file: BinaryIO
    size: int


def check_multipart(request: Request, otherwise: str) -> None:
    """Check the kind of a request's body, before it is read.

    Raises:
        HTTPException: 415 with the sentence `otherwise`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, otherwise)


async def receive_archive(request: Request, spool: Spool) -> Form:
    """Read a form with one file, which lies in the spool without a name. Close the form when done.

    Raises:
        HTTPException: 400 for a malformed body.
        InvalidRequestError: too many files or fields, or a field that is too large.
        SpoolFullError, SpoolUnusableError: it cannot be written.
    """

    def nameless() -> BinaryIO:
        # the file never has a name, so even a killed process leaves nothing of it
        return tempfile.TemporaryFile(dir=spool.root)

    with keeping():
        return await read_form(request, nameless, max_files=1)


def parse_archive(form: Form, model: type[M]) -> tuple[M, Upload]:
    """Return the fields of a form, and its archive.

    Raises:
        InvalidRequestError: there is not exactly one file, in the field `archive`.
        RequestValidationError: a field is unknown or invalid.
    """
    archives = [part for part in form.files if part.name == "archive"]
    if len(archives) != 1 or len(form.files) != 1:
        raise InvalidRequestError("expected exactly one file, in the field 'archive'")
    values: dict[str, Any] = dict(form.fields)
    try:
        fields = model.model_validate(values)
    except ValidationError as error:
        raise invalid(error) from error
    return fields, Upload(archives[0].file, archives[0].size)


def invalid(error: ValidationError, *under: str) -> RequestValidationError:
    """Return the error that FastAPI would raise for fields that a route parses itself."""
    errors = error.errors(include_url=False, include_input=False)
    return RequestValidationError([{**item, "loc": ("body", *under, *item["loc"])} for item in errors])
