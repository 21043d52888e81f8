"""The route that teaches new classes from an archive of labelled images."""

from __future__ import annotations

import tempfile
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from app.deps import ServicesDep, TrainCaller
from app.errors import InvalidRequestError
from app.intake.keeping import keeping
from app.intake.limits import IntakeLimits
from app.intake.places import Check
from app.intake.submission import Submissions, Submitted, TaskForm, Upload
from app.multipart import Form, read_form
from app.openapi import problems
from app.schemas import TaskAccepted
from app.services import Services
from app.wire.root import outside_path
from segp_cl.config import LearnerConfig

router = APIRouter(prefix="/v1", tags=["tasks"])
_FIELDS = TaskForm.model_json_schema(mode="validation")
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                **_FIELDS,
                "required": ["archive", "name"],
                "properties": {
                    "archive": {
                        "type": "string",
                        "format": "binary",
                        "description": "zip or tar, with a folder per class; or parquet with image and label.",
                    },
                    **_FIELDS["properties"],
                    "config": {"type": "string", "example": '{"strategy": "segp", "epochs": 5}'},
                },
            }
        }
    },
}


@router.post(
    "/tasks",
    status_code=202,
    summary="Teach new classes",
    response_model=TaskAccepted,
    responses=problems(400, 409, 413, 415, 422, 503, 504, 507),
    openapi_extra={"requestBody": _BODY},
)
async def submit_task(
    request: Request,
    response: Response,
    services: ServicesDep,
    caller: TrainCaller,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="A request repeated with its key creates no second job."),
    ] = None,
) -> TaskAccepted:
    """Upload labelled images of new classes. Every image is decoded before the answer; a job then learns them.

    The answer has the job's address, the number of images per class, and every rejected file with its reason.
    """
    form = await _receive(request, services)
    try:
        fields, upload = _parse(form)
        # keeps the keys of different callers apart
        key = f"{caller.key_id}:{idempotency_key}" if idempotency_key else None
        submissions = Submissions(services.store, services.spool, services.jobs, IntakeLimits.of(services.settings))

        def work(check: Check) -> Submitted:
            return submissions.submit(fields, upload, submitted_by=caller.name, idempotency_key=key, check=check)

        submitted = await services.intake.run(request, caller.key_id, work)
    except Exception:
        services.metrics.uploads.labels("refused").inc()
        raise
    finally:
        form.close()
    services.metrics.uploads.labels("replayed" if submitted.replayed else "accepted").inc()
    location = outside_path(request.scope, f"/v1/jobs/{submitted.record.job_id}")
    response.headers["Location"] = location
    if submitted.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    assert submitted.record.validation is not None
    return TaskAccepted(job_id=submitted.record.job_id, location=location, validation=submitted.record.validation)


async def _receive(request: Request, services: Services) -> Form:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, "send multipart/form-data with the fields archive and name")
    await services.pools.broker.run(services.jobs.ping)  # before the upload is read

    def nameless() -> BinaryIO:
        # the file never has a name, so even a killed process leaves nothing of it
        return tempfile.TemporaryFile(dir=services.spool.root)

    with keeping():
        return await read_form(request, nameless, max_files=1)


def _parse(form: Form) -> tuple[TaskForm, Upload]:
    archives = [part for part in form.files if part.name == "archive"]
    if len(archives) != 1 or len(form.files) != 1:
        raise InvalidRequestError("expected exactly one file, in the field 'archive'")
    values: dict[str, Any] = dict(form.fields)
    try:
        fields = TaskForm.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from error
    try:
        LearnerConfig.model_validate(fields.config)
    except ValidationError as error:
        raise _invalid(error, "config") from error
    return fields, Upload(archives[0].file, archives[0].size)


def _invalid(error: ValidationError, *under: str) -> RequestValidationError:
    errors = error.errors(include_url=False, include_input=False)
    return RequestValidationError([{**item, "loc": ("body", *under, *item["loc"])} for item in errors])
