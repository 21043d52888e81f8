"""The route that classifies images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ConfigDict, TypeAdapter, ValidationError

from app.deps import ClassifyCaller, ServicesDep
from app.encoded_images import images_from_base64
from app.errors import InvalidRequestError
from app.json_body import read_json
from app.media_types import media_type
from app.multipart import Form, read_form
from app.offload import QUICK_BYTES, off_loop
from app.openapi import problems
from app.pacing import REFUSED
from app.problems import invalid_body
from app.schemas import MAX_LABEL_LENGTH, ClassifyAnswer, ClassifyBody, ClassifyOptions
from app.services import Services
from app.serving.answer_images import Pixels, answer_images, check_image_count, take_served
from app.serving.answers import Wanted, results
from app.serving.engine import Scored
from app.serving.live_model import Served
from app.serving.question import Question
from segp_cl.errors import KeepsightError
from segp_cl.prompts import DEFAULT_TEMPLATE, as_prompt

router = APIRouter(prefix="/v1", tags=["classify"])
_SEPARATORS = ",;|\n\t、，"
_BYTES_PER_PREDICTION = 1024  # what it costs to write one, as bytes to parse
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_MULTIPART = {
    "type": "object",
    "required": ["images"],
    "additionalProperties": False,
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1, "maxItems": 64},
        **ClassifyOptions.model_json_schema()["properties"],
    },
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _MULTIPART},
        "application/json": {
            "schema": ClassifyBody.model_json_schema(),
            "example": {"images": ["iVBORw0KGgo="], "top_k": 3, "labels": ["cat", "dog"]},
        },
        **dict.fromkeys(("image/*", "application/octet-stream"), _IMAGE),
    },
}
_JSON_LIST = TypeAdapter(list[str])


class _Options(ClassifyOptions):
    """The options of a request; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Asked:
    """A parsed request. An image that failed to parse is carried as an error in its slot."""

    images: Sequence[bytes | KeepsightError]
    filenames: Sequence[str | None]
    options: ClassifyOptions


@router.post(
    "/classify",
    summary="Classify images",
    response_model=ClassifyAnswer,
    responses=problems(400, 404, 409, 413, 415, 422, 429, 503, 504),
    openapi_extra={"requestBody": _BODY},
)
async def classify(
    request: Request,
    services: ServicesDep,
    caller: ClassifyCaller,
    options: Annotated[_Options, Query()],
) -> Response:
    """Classify 1 to 64 images with the version that is served at this moment, or with `version`.

    An image that cannot be decoded has an error in its own result; the others are answered. One image may also be the
    body itself. Options may be in the query, the form or the JSON body.
    """
    asked = await _read(request, options.model_dump(exclude_unset=True), services)
    words = _labels(asked.options, services)
    served = await _served(services, request, asked.options)
    question = None
    if words is None:
        served.check_classes()
    else:
        question = Question.of(
            served,
            words,
            path=asked.options.path,
            zero_shot=asked.options.zero_shot,
            with_classes=asked.options.with_classes,
        )

    async def ask(pixels: Sequence[Pixels]) -> Sequence[Scored | Exception]:
        if question is None:
            return await services.engine.scores(served, pixels, asked.options.path)
        return await services.engine.label_scores(served, pixels, question)

    slots = await services.admission.while_wanted(
        request,
        lambda: answer_images(services, served, asked.images, ask, outcome="classified"),
        timeout_ms=asked.options.timeout_ms,
    )
    if all(isinstance(slot, Exception) for slot in slots):
        setattr(request.state, REFUSED, True)
    labels = len(served.classes) if question is None else len(question.labels)
    top_k = min(asked.options.top_k, labels)
    alike = [] if question is None else await services.engine.alike(served, question)
    coverage = asked.options.set_coverage
    least = None if coverage is None else served.classifier.least_probability(asked.options.path, coverage)
    wanted = Wanted(top_k, known_share=asked.options.known_share, least_probability=least)

    def answer() -> str:
        found = results(served.version_id, asked.filenames, asked.images, slots, wanted)
        for result in found:
            if result.predictions:
                services.metrics.count_answer(result.predictions[0].probability, result.unknown)
        return ClassifyAnswer(
            model_version=served.version_id,
            path=asked.options.path if question is None else question.answered_by,
            alike=alike,
            results=found,
        ).model_dump_json()

    # FastAPI would validate the answer again
    size = sum(len(image) for image in asked.images if isinstance(image, bytes))  # ids have a digest of each
    content = await off_loop(size + _BYTES_PER_PREDICTION * top_k * len(slots), answer)
    return Response(content, media_type="application/json")


async def _read(request: Request, query: dict[str, Any], services: Services) -> Asked:
    settings = services.settings
    kind = media_type(request, "multipart/form-data", "application/json", "image/*", "application/octet-stream")
    if kind == "multipart/form-data":
        form = await read_form(
            request, io.BytesIO, max_files=settings.max_images, max_file_bytes=settings.max_image_bytes
        )
        asked = _of_form(form, query)
        check_image_count(len(asked.images), services)
        return asked
    if kind == "application/json":
        body = await read_json(
            request, ClassifyBody, max_bytes=settings.max_json_bytes, max_marks=settings.max_json_marks
        )
        options = _options({**query, **body.model_dump(exclude={"images"}, exclude_unset=True)})
        check_image_count(len(body.images), services)
        images = await images_from_base64(body.images, max_bytes=settings.max_image_bytes)
        return Asked(images, [None] * len(images), options)
    options = _options(query)
    image = await _read_image(request, settings.max_image_bytes)
    check_image_count(1 if image else 0, services)
    return Asked([image], [None], options)


async def _read_image(request: Request, max_bytes: int) -> bytes:
    """Return the body, of which at most one byte more is kept than an image may have."""
    pieces: list[bytes] = []
    pending, size = bytearray(), 0
    async for chunk in request.stream():
        kept = chunk[: max_bytes + 1 - size]
        size += len(kept)
        pending += kept
        if len(pending) >= QUICK_BYTES:
            pieces.append(bytes(pending))
            pending.clear()
    return await off_loop(size, b"".join, [*pieces, bytes(pending)])


def _of_form(form: Form, query: Mapping[str, Any]) -> Asked:
    wrong = {part.name for part in form.files} - {"images"}
    if wrong:
        raise InvalidRequestError(f"files must be in the field 'images'; got {', '.join(map(repr, sorted(wrong)))}")
    values: dict[str, Any] = dict(query)
    for name in dict.fromkeys(name for name, _ in form.fields):
        given = form.values(name)
        if name == "images":
            raise InvalidRequestError("the field 'images' has text, not a file; with curl, write -F images=@cat.jpg")
        if name != "labels" and len(given) > 1:
            raise InvalidRequestError(f"the field {name!r} is given {len(given)} times; expected once")
        values[name] = given if name == "labels" else given[0]
    return Asked([part.content() for part in form.files], [part.filename for part in form.files], _options(values))


def _options(values: dict[str, Any]) -> ClassifyOptions:
    labels = values.get("labels")
    if isinstance(labels, list) and len(labels) == 1 and str(labels[0]).lstrip().startswith("["):
        try:
            values["labels"] = _JSON_LIST.validate_json(labels[0])
        except ValidationError as error:
            raise InvalidRequestError(f"labels is not a JSON list of texts: {error.errors()[0]['msg']}") from error
    try:
        return _Options.model_validate(values)
    except ValidationError as error:
        raise invalid_body(error) from error


def _labels(options: ClassifyOptions, services: Services) -> dict[str, str] | None:
    """Return the labels with their prompts; None if the version's classes are asked for."""
    if options.labels is None:
        if options.template is not None:
            raise InvalidRequestError(
                "template is only allowed with labels; learned classes keep the prompt they were taught with"
            )
        if options.with_classes or options.zero_shot is not None:
            raise InvalidRequestError("with_classes and zero_shot are only allowed with labels")
        return None
    for name in ("set_coverage", "known_share"):
        if name in options.model_fields_set:
            raise InvalidRequestError(f"{name} is only for learned classes; leave labels or {name} out")
    words = [label.strip() for label in options.labels]
    if not 1 <= len(words) <= services.settings.max_labels:
        raise InvalidRequestError(f"the request has {len(words)} labels; expected 1 to {services.settings.max_labels}")
    if len(words) == 1 and any(separator in words[0] for separator in _SEPARATORS):
        raise InvalidRequestError(
            f"labels is one label, {words[0][:60]!r}, which looks like several; repeat the field for each "
            '(-F labels=cat -F labels=dog, or ?labels=cat&labels=dog), or send a JSON list: ["cat", "dog"]'
        )
    if not all(1 <= len(word) <= MAX_LABEL_LENGTH for word in words):
        raise InvalidRequestError(f"a label is empty or has more than {MAX_LABEL_LENGTH} characters")
    if len(set(words)) < len(words):
        raise InvalidRequestError("a label is given twice")
    template = DEFAULT_TEMPLATE if options.template is None else options.template
    return {word: as_prompt(template, word) for word in words}


async def _served(services: Services, request: Request, options: ClassifyOptions) -> Served:
    """Return the version that answers. Another one than the served may have to be loaded, within the deadline."""
    version = options.version
    if version is None:
        return await take_served(services, request)
    return await services.admission.while_wanted(
        request, lambda: take_served(services, request, version), timeout_ms=options.timeout_ms
    )
