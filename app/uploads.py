"""What routes that take an archive share: how it is received, and how the fields beside it are checked."""

from __future__ import annotations

import tempfile
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import Header, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from app.errors import InvalidRequestError
from app.intake.keeping import keeping
from app.intake.submission import Upload
from app.multipart import Form, read_form
from app.services import Services

Fields = TypeVar("Fields", bound=BaseModel)
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="A request repeated with its key creates no second job."),
]


async def receive(request: Request, services: Services) -> Form:
    """Read a form with an archive into a file without a name, unless the broker is gone.

    Raises:
        HTTPException: 415, it is no form; 400, it is malformed.
        InvalidRequestError: it has too many fields or files.
        BrokerUnavailableError: Redis is gone, so nothing could be done with it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, "send multipart/form-data with the field archive")
    await services.pools.broker.run(services.jobs.ping)  # before the upload is read

    def nameless() -> BinaryIO:
        # the file never has a name, so even a killed process leaves nothing of it
        return tempfile.TemporaryFile(dir=services.spool.root)

    with keeping():
        return await read_form(request, nameless, max_files=1)


def parse(form: Form, model: type[Fields]) -> tuple[Fields, Upload]:
    """Return a form's fields and its archive.

    Raises:
        InvalidRequestError: there is not exactly one file, `archive`.
        RequestValidationError: a field is unknown, missing or invalid.
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
    """Return the error of a request whose body is wrong; `under` is where in it."""
    errors = error.errors(include_url=False, include_input=False)
    return RequestValidationError([{**item, "loc": ("body", *under, *item["loc"])} for item in errors])


def body_with_archive(model: type[BaseModel], archive: str, **examples: Any) -> dict[str, Any]:
    """Return the documentation of a form with an archive; `archive` describes it, `examples` replace fields."""
    schema = model.model_json_schema(mode="validation")
    properties = {"archive": {"type": "string", "format": "binary", "description": archive}, **schema["properties"]}
    required = ["archive", *schema.get("required", [])]
    whole = {**schema, "required": required, "properties": {**properties, **examples}}
    return {"required": True, "content": {"multipart/form-data": {"schema": whole}}}
