"""The routes that keep corrections of answers and have them learned."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from app.correction_schemas import (
    CorrectionBody,
    CorrectionFields,
    CorrectionList,
    CorrectionsAccepted,
    CorrectionsRemoved,
    CorrectionView,
)
from app.corrections import Answered, answer_named, check_known, corrections_of, queue_corrections, right_class
from app.deps import ServicesDep, TrainCaller
from app.encoded_images import images_from_base64
from app.errors import InvalidRequestError
from app.intake.keeping import keeping
from app.json_body import read_json
from app.media_types import media_type
from app.multipart import Form, read_form
from app.offload import as_json
from app.openapi import problems
from app.problems import invalid_body
from app.services import Services
from app.serving.answer_images import Pixels, answer_images, take_served
from app.serving.answers import predictions
from app.serving.engine import Scored
from app.wire.root import outside_path
from exchange.corrections import Correction
from segp_cl.errors import KeepsightError

router = APIRouter(prefix="/v1/corrections", tags=["corrections"])
_FIELDS = CorrectionFields.model_json_schema()
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                **_FIELDS,
                "required": ["image", "label"],
                "properties": {"image": {"type": "string", "format": "binary"}, **_FIELDS["properties"]},
            }
        },
        "application/json": {
            "schema": CorrectionBody.model_json_schema(),
            "example": {"image": "iVBORw0KGgo=", "label": "cat"},
        },
    },
}


@dataclass(frozen=True)
class _Sent:
    image: bytes | KeepsightError
    fields: CorrectionFields


@router.post(
    "",
    status_code=201,
    summary="Correct an answer",
    response_model=CorrectionView,
    responses=problems(400, 409, 413, 415, 422, 429, 503, 504, 507),
    openapi_extra={"requestBody": _BODY},
)
async def correct(request: Request, services: ServicesDep, caller: TrainCaller) -> Response:
    """Keep an image that was answered wrongly with its right label, until it is learned.

    `label` is a class of the served version, or a new one with `new_class`. `answer_id` says what was answered and by
    which version. Where neither it nor `answered` is sent, the version that is served now says what it answers. A
    correction of the same image takes the place of an earlier one.
    """
    sent = await _read(request, services)
    fields = sent.fields
    served = await take_served(services, request)
    served.check_classes()
    label, prompt = right_class(fields.label, served.classes, new_class=fields.new_class)
    check_known("taught_as", fields.taught_as, served.classes)
    if fields.taught_as == label:
        raise InvalidRequestError("taught_as is the right label, so there is nothing to correct in it")
    named = None
    if fields.answer_id is not None and isinstance(sent.image, bytes):
        named = await services.pools.store.run(answer_named, fields.answer_id, sent.image, services.store)

    async def ask(pixels: Sequence[Pixels]) -> Sequence[Scored | Exception]:
        return await services.engine.scores(served, pixels, "fused")

    answered = await services.admission.while_wanted(
        request,
        lambda: answer_images(services, served, [sent.image], ask, outcome="classified", all_named=["image"]),
        timeout_ms=None,
    )
    if isinstance(answered[0], Exception):
        raise answered[0]
    best = predictions(answered[0], 1)[0]
    of_now = Answered(best.label, best.probability, served.version_id)
    of_client = Answered(fields.answered, fields.probability, fields.answered_by)
    told = named or (of_now if fields.answered is None else of_client)
    assert isinstance(sent.image, bytes)  # an image that failed to parse has raised its error
    keep = functools.partial(
        corrections_of(services).add,
        sent.image,
        label,
        corrected_by=caller.name,
        taught_as=fields.taught_as,
        prompt=prompt,
        answered=told.label,
        probability=told.probability,
        answered_by=told.by,
        reason=fields.reason,
    )

    def work() -> Correction:
        with keeping():
            return keep()

    kept = await services.pools.corrections.run(work)
    response = as_json(CorrectionView.of(kept, kept_s=services.settings.corrections_kept_s))
    response.status_code = 201
    response.headers["Location"] = outside_path(request.scope, f"/v1/corrections/{kept.number}")
    return response


@router.get("", summary="The corrections that wait", responses=problems(503), response_model=CorrectionList)
async def list_corrections(services: ServicesDep, caller: TrainCaller) -> Response:
    """List the corrections that wait to be learned, the oldest first, without their images."""
    settings = services.settings

    def work() -> Response:
        kept = corrections_of(services).waiting()
        return as_json(
            CorrectionList(
                corrections=[CorrectionView.of(each, kept_s=settings.corrections_kept_s) for each in kept],
                bytes=sum(each.size for each in kept),
                learned_at_count=settings.corrections_learn_count or None,
                learned_after_s=settings.corrections_learn_after_s or None,
            )
        )

    return await services.pools.corrections.run(work)


@router.post(
    "/learn",
    status_code=202,
    summary="Learn the corrections that wait",
    responses=problems(409, 503, 507),
)
async def learn_corrections(
    request: Request, response: Response, services: ServicesDep, caller: TrainCaller
) -> CorrectionsAccepted:
    """Queue one job that learns all corrections that wait. They leave the list, and their images go with the job."""
    work = functools.partial(queue_corrections, services, submitted_by=caller.name)
    record = await services.pools.corrections.run(work)
    location = outside_path(request.scope, f"/v1/jobs/{record.job_id}")
    response.headers["Location"] = location
    return CorrectionsAccepted(job_id=record.job_id, location=location, corrections=record.job.corrections)


@router.delete("", summary="Remove all corrections", responses=problems(503))
async def remove_corrections(services: ServicesDep, caller: TrainCaller) -> CorrectionsRemoved:
    """Remove all corrections that wait, with their images."""
    return CorrectionsRemoved(removed=await services.pools.corrections.run(corrections_of(services).clear))


@router.delete("/{number}", summary="Remove one correction", responses=problems(404, 503))
async def remove_correction(number: int, services: ServicesDep, caller: TrainCaller) -> CorrectionsRemoved:
    """Remove one correction that waits, with its image."""
    await services.pools.corrections.run(corrections_of(services).remove, number)
    return CorrectionsRemoved(removed=1)


async def _read(request: Request, services: Services) -> _Sent:
    settings = services.settings
    if media_type(request, "multipart/form-data", "application/json") == "multipart/form-data":
        form = await read_form(request, io.BytesIO, max_files=1, max_file_bytes=settings.max_image_bytes)
        return _of_form(form)
    body = await read_json(request, CorrectionBody, max_bytes=settings.max_json_bytes)
    images = await images_from_base64([body.image], max_bytes=settings.max_image_bytes)
    return _Sent(images[0], body)


def _of_form(form: Form) -> _Sent:
    if [part.name for part in form.files] != ["image"]:
        got = ", ".join(repr(part.name) for part in form.files) or "no file"
        raise InvalidRequestError(f"expected one file, in the field 'image'; got {got}")
    values: dict[str, Any] = {}
    for name, value in form.fields:
        if name in values:
            raise InvalidRequestError(f"the field {name!r} is given twice; expected once")
        values[name] = value
    try:
        return _Sent(form.files[0].content(), CorrectionFields.model_validate(values))
    except ValidationError as error:
        raise invalid_body(error) from error
