"""Routes for the classes: which are served, and edits of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from app.deps import AnyCaller, ServicesDep, TrainCaller
from app.edit_previews import EditPreview, PreviewBody, preview
from app.edits import ClassMergeBody, ClassPatch, EditAccepted, ReplaceForm, merging, named, queue_edit, renaming
from app.intake.keep_test_set import Keeper
from app.intake.keeping import keeping
from app.intake.limits import IntakeLimits
from app.intake.places import Check
from app.intake.receive import IdempotencyKey, check_multipart, parse_archive, receive_archive
from app.intake.submission import Submissions, Submitted, TaskForm
from app.json_body import read_json
from app.media_types import media_type
from app.offload import as_json
from app.openapi import body_with_archive, json_body, problems
from app.schemas import ClassList, TaskAccepted
from app.services import Services
from app.wire.root import outside_path
from exchange.contracts import JobRecord
from model_store.store import Store
from model_store.types import ClassRecord
from segp_cl.class_edits import ClassEdit

router = APIRouter(prefix="/v1", tags=["classes"])
MAX_BODY_BYTES = 1024 * 1024
Name = Annotated[str, Path(description="A class's name.", max_length=1000)]
Reason = Annotated[str, Query(max_length=1000, description="Kept in the journal.")]
_EDIT_PROBLEMS = (400, 404, 409, 413, 415, 422, 503, 507)


@router.get("/classes", summary="The classes that are served", responses=problems(503), response_model=ClassList)
async def list_classes(services: ServicesDep, caller: AnyCaller) -> Response:
    """List the classes of the version that this server serves, in the order of its scores."""
    served = await services.watcher.served()
    return as_json(
        ClassList(
            model_version=served.version_id,
            classes=[ClassRecord.model_validate(known) for known in served.classes],
        )
    )


@router.post(
    "/classes/merge",
    status_code=202,
    summary="Merge classes",
    responses=problems(*_EDIT_PROBLEMS),
    openapi_extra={"requestBody": json_body(ClassMergeBody)},
)
async def merge_classes(
    request: Request, response: Response, services: ServicesDep, caller: TrainCaller
) -> EditAccepted:
    """Make several classes one, as if it had been taught with the images of all of them.

    A job makes the version, in seconds and without training. It passes the gate, and a rollback undoes it.
    """
    media_type(request, "application/json")
    body = await read_json(request, ClassMergeBody, max_bytes=MAX_BODY_BYTES, long_bytes=MAX_BODY_BYTES)
    return await _queued(request, response, services, caller.name, body.reason, lambda store: merging(store, body))


@router.post(
    "/classes/preview",
    summary="What an edit would change",
    responses=problems(400, 404, 409, 413, 415, 422, 503),
    openapi_extra={"requestBody": json_body(PreviewBody)},
)
async def preview_edit(request: Request, services: ServicesDep, caller: TrainCaller) -> EditPreview:
    """Say what a rename, swap, merge, delete or replace would change, without making it.

    The same wishes are refused for the same reasons. Nothing is queued.
    """
    media_type(request, "application/json")
    body = await read_json(request, PreviewBody, max_bytes=MAX_BODY_BYTES, long_bytes=MAX_BODY_BYTES)
    return await services.pools.store.run(preview, services.store, services.test_sets, body)


@router.post(
    "/classes/{name:path}/replace",
    status_code=202,
    summary="Replace a class's images",
    response_model=TaskAccepted,
    responses=problems(*_EDIT_PROBLEMS, 504),
    openapi_extra={
        "requestBody": body_with_archive(ReplaceForm, "zip or tar with one folder, of the class's name; or parquet.")
    },
)
async def replace_class(
    name: Name,
    request: Request,
    response: Response,
    services: ServicesDep,
    caller: TrainCaller,
    idempotency_key: IdempotencyKey = None,
) -> TaskAccepted:
    """Teach a class anew with other images, in place of all that it was taught with. Name and prompt stay.

    A job makes the version in closed form, in seconds. It passes the gate, and a rollback undoes it.
    """
    check_multipart(request, "send multipart/form-data with the field archive")
    await services.pools.broker.run(services.jobs.ping)  # before the upload is read
    form = await receive_archive(request, services.spool)
    try:
        fields, upload = parse_archive(form, ReplaceForm)
        known = named(name)
        task = TaskForm(
            name=fields.reason or f"replace {known!a}"[:200],
            extend=True,
            instant=False,
            seed=fields.seed,
            encoding=fields.encoding,
        )
        submissions = Submissions(
            services.store,
            services.spool,
            services.jobs,
            IntakeLimits.of(services.settings),
            keeper=Keeper.of(services.test_sets, services.settings),
        )

        def work(check: Check) -> Submitted:
            return submissions.submit(
                task,
                upload,
                submitted_by=caller.name,
                idempotency_key=f"{caller.key_id}:{idempotency_key}" if idempotency_key else None,
                check=check,
                replaces=known,
            )

        submitted = await services.intake.run(request, caller.key_id, work)
    finally:
        form.close()
    assert submitted.record.validation is not None
    location = _located(request, response, submitted.record)
    if submitted.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return TaskAccepted(job_id=submitted.record.job_id, location=location, validation=submitted.record.validation)


@router.patch(
    "/classes/{name:path}",
    status_code=202,
    summary="Rename a class",
    responses=problems(*_EDIT_PROBLEMS),
    openapi_extra={"requestBody": json_body(ClassPatch)},
)
async def rename_class(
    name: Name, request: Request, response: Response, services: ServicesDep, caller: TrainCaller
) -> EditAccepted:
    """Give a class another name, another prompt, or both; with `swap`, exchange those of two classes.

    A job makes the version, in seconds and without training. It passes the gate, and a rollback undoes it.
    """
    media_type(request, "application/json")
    patch = await read_json(request, ClassPatch, max_bytes=MAX_BODY_BYTES, long_bytes=MAX_BODY_BYTES)
    return await _queued(
        request, response, services, caller.name, patch.reason, lambda store: renaming(store, name, patch)
    )


@router.delete("/classes/{name:path}", status_code=202, summary="Delete a class", responses=problems(*_EDIT_PROBLEMS))
async def delete_class(
    name: Name,
    request: Request,
    response: Response,
    services: ServicesDep,
    caller: TrainCaller,
    reason: Reason = "",
) -> EditAccepted:
    """Take a class away: its name, prompt, text feature, prototype and sums.

    What was trained for it cannot be taken out of the adapters, and its part of the scatter that all classes share only
    where `keep_class_scatter` was set when it was taught. The job's result says what was removed and what remains.
    """
    edit = ClassEdit(kind="delete", classes=(named(name),))
    return await _queued(request, response, services, caller.name, reason, lambda store: edit)


async def _queued(
    request: Request,
    response: Response,
    services: Services,
    submitted_by: str,
    reason: str,
    edit_of: Callable[[Store], ClassEdit],
) -> EditAccepted:
    def work() -> tuple[JobRecord, ClassEdit]:
        edit = edit_of(services.store)
        with keeping():
            record = queue_edit(
                services.store, services.spool, services.jobs, edit, reason=reason.strip(), submitted_by=submitted_by
            )
        return record, edit

    record, edit = await services.pools.broker.run(work)
    return EditAccepted(job_id=record.job_id, location=_located(request, response, record), edit=edit)


def _located(request: Request, response: Response, record: JobRecord) -> str:
    location = outside_path(request.scope, f"/v1/jobs/{record.job_id}")
    response.headers["Location"] = location
    return location
