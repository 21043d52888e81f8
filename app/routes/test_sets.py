"""Routes for test sets: labelled images that are stored to measure versions on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from app.deps import AdminCaller, AnyCaller, ServicesDep
from app.evaluations import unknown_labels
from app.intake.keep_test_set import Keeper, Kept, SetForm, keep_upload
from app.intake.limits import IntakeLimits
from app.intake.places import Check
from app.intake.receive import check_multipart, parse_archive, receive_archive
from app.offload import as_json
from app.openapi import problems
from app.set_schemas import SET_NAME, SetDetails, SetInfo, SetList, SetStored
from model_store.naming import Namings
from model_store.test_sets import RemovedTestSet

router = APIRouter(prefix="/v1/test-sets", tags=["test sets"])
_FIELDS = SetForm.model_json_schema(mode="validation")
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                **_FIELDS,
                "required": ["archive"],
                "properties": {
                    "archive": {
                        "type": "string",
                        "format": "binary",
                        "description": "zip or tar, with a folder per class; or parquet with image and label.",
                    },
                    **_FIELDS["properties"],
                },
            }
        }
    },
}

Name = Annotated[str, Path(pattern=SET_NAME, description="The test set's name.")]
Reason = Annotated[str, Query(max_length=1000, description="Kept in the receipt and in the journal.")]


@router.get("", summary="All test sets", responses=problems(503), response_model=SetList)
def list_test_sets(services: ServicesDep, caller: AnyCaller) -> Response:
    """List the test sets, and how much more may be stored. Their images are never sent."""
    found, settings = services.test_sets.all(), services.settings
    namings = Namings(services.store)
    current = namings.current()
    return as_json(
        SetList(
            test_sets=[SetInfo.of(record, unknown_labels(namings, record, current)) for record in found],
            sets_left=max(0, settings.max_test_sets - len(found)),
            bytes_left=max(0, settings.max_test_set_bytes - sum(record.bytes for record in found)),
        )
    )


@router.get("/{name}", summary="One test set", responses=problems(404, 409, 422, 503), response_model=SetDetails)
def get_test_set(name: Name, services: ServicesDep, caller: AnyCaller) -> Response:
    """Return a test set with the label and the checksum of each of its images, by number."""
    record = services.test_sets.get(name)
    images = services.test_sets.read(record, numbers=())
    namings = Namings(services.store)
    current = namings.current()
    about = SetInfo.of(record, unknown_labels(namings, record, current)).model_dump()
    labels = [images.classes[label] for label in images.labels]
    return as_json(SetDetails.model_validate({**about, "labels": labels, "checksums": list(images.checksums)}))


@router.put(
    "/{name}",
    summary="Store a test set",
    response_model=SetStored,
    responses=problems(400, 409, 413, 415, 422, 503, 504, 507),
    openapi_extra={"requestBody": _BODY},
)
async def put_test_set(name: Name, request: Request, services: ServicesDep, caller: AdminCaller) -> SetStored:
    """Store labelled images to measure every version on, in place of the set of that name. Nothing learns from them.

    They are kept until their time is over or they are removed. Of an archive with splits, the test split alone is
    stored, or the val split if there is no test split.
    """
    check_multipart(request, "send multipart/form-data with the field archive")
    form = await receive_archive(request, services.spool)
    try:
        fields, upload = parse_archive(form, SetForm)

        def work(check: Check) -> Kept:
            return keep_upload(
                name,
                fields,
                upload,
                keeper=Keeper.of(services.test_sets, services.settings),
                store=services.store,
                spool=services.spool,
                limits=IntakeLimits.of(services.settings),
                who=caller.name,
                check=check,
            )

        kept = await services.intake.run(request, caller.key_id, work)
    finally:
        form.close()
    return SetStored(test_set=SetInfo.of(kept.record, kept.unknown), validation=kept.validation)


@router.delete("/{name}", summary="Remove a test set", responses=problems(404, 422, 503, 507))
async def remove_test_set(
    name: Name, services: ServicesDep, caller: AdminCaller, reason: Reason = ""
) -> RemovedTestSet:
    """Remove a test set, its images and what versions answered to them. The answer is the receipt."""
    return await services.pools.store.run(services.test_sets.remove, name, who=caller.name, reason=reason)
