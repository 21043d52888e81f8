"""The route that teaches new classes from an archive of labelled images."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from app.deps import ServicesDep, TrainCaller
from app.intake.keep_test_set import Keeper
from app.intake.limits import IntakeLimits
from app.intake.places import Check
from app.intake.receive import IdempotencyKey, Upload, check_multipart, invalid, parse_archive, receive_archive
from app.intake.submission import Submissions, Submitted, TaskForm
from app.multipart import Form
from app.openapi import body_with_archive, problems
from app.schemas import TaskAccepted
from app.wire.root import outside_path
from segp_cl.config import LearnerConfig

router = APIRouter(prefix="/v1", tags=["tasks"])
_BODY = body_with_archive(
    TaskForm,
    "zip or tar, with a folder per class; or parquet with image and label.",
    config={"type": "string", "example": '{"strategy": "segp", "epochs": 5}'},
)


@router.post(
    "/tasks",
    status_code=202,
    summary="Teach new classes",
    response_model=TaskAccepted,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 504, 507),
    openapi_extra={"requestBody": _BODY},
)
async def submit_task(
    request: Request,
    response: Response,
    services: ServicesDep,
    caller: TrainCaller,
    idempotency_key: IdempotencyKey = None,
) -> TaskAccepted:
    """Upload labelled images of new classes. Every image is decoded before the answer; a job then learns them.

    The answer has the job's address, the number of images per class, and every rejected file with its reason.
    """
    check_multipart(request, "send multipart/form-data with the fields archive and name")
    await services.pools.broker.run(services.jobs.ping)  # before the upload is read
    form = await receive_archive(request, services.spool)
    try:
        fields, upload = _parse(form)
        # keeps the keys of different callers apart
        key = f"{caller.key_id}:{idempotency_key}" if idempotency_key else None
        submissions = Submissions(
            services.store,
            services.spool,
            services.jobs,
            IntakeLimits.of(services.settings),
            keeper=Keeper.of(services.test_sets, services.settings),
        )

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


def _parse(form: Form) -> tuple[TaskForm, Upload]:
    fields, upload = parse_archive(form, TaskForm)
    try:
        LearnerConfig.model_validate(fields.config)
    except ValidationError as error:
        raise invalid(error, "config") from error
    return fields, upload
