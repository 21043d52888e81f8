"""What is on these images?"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from torch import Tensor

from app.deps import ClassifyCaller, ServicesDep
from app.errors import InvalidRequestError, invalid_body
from app.multipart import Form, read_form
from app.openapi import problems
from app.schemas import DEFAULT_TOP_K, MAX_TOP_K, ClassifyAnswer, ClassifyBody, PathName
from app.services import Services
from app.serving.answers import results
from app.serving.decode import from_base64
from app.serving.engine import Scored
from app.serving.live_model import Served
from app.waiting import off_loop, while_wanted
from segp_cl.errors import KeepsightError
from segp_cl.inference import NoClassesError
from segp_cl.learner import DEFAULT_TEMPLATE, as_prompt

router = APIRouter(prefix="/v1", tags=["classify"])
MAX_LABEL_LENGTH = 200
_MULTIPART = {
    "type": "object",
    "required": ["images"],
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1, "maxItems": 64},
        "top_k": {"type": "integer", "default": DEFAULT_TOP_K},
        "path": {"type": "string", "enum": ["fused", "text", "visual"], "default": "fused"},
        "labels": {"type": "array", "items": {"type": "string"}, "description": "Any words, or one JSON list of them."},
        "template": {"type": "string", "default": DEFAULT_TEMPLATE},
        "timeout_ms": {"type": "integer", "minimum": 1},
    },
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _MULTIPART},
        "application/json": {
            "schema": ClassifyBody.model_json_schema(),
            "example": {"images": ["iVBORw0KGgo…"], "top_k": 3, "labels": ["cat", "dog"]},
        },
    },
}


class Options(BaseModel):
    """How to answer."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(DEFAULT_TOP_K, ge=1, le=MAX_TOP_K)
    path: PathName = "fused"
    labels: list[str] | None = None
    template: str | None = None
    timeout_ms: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Asked:
    """A request, whatever form it came in. An image that is no image already is an error in its slot."""

    images: Sequence[bytes | KeepsightError]
    filenames: Sequence[str | None]
    options: Options


@router.post(
    "/classify",
    summary="Classify images",
    response_model=ClassifyAnswer,
    responses=problems(400, 409, 413, 415, 422, 429, 503, 504),
    openapi_extra={"requestBody": _BODY},
)
async def classify(
    request: Request,
    services: ServicesDep,
    caller: ClassifyCaller,
    top_k: Annotated[int | None, Query(ge=1, le=MAX_TOP_K, description="Labels per image.")] = None,
    path: Annotated[PathName | None, Query(description="Which scores rank.")] = None,
    labels: Annotated[list[str] | None, Query(description="Any words instead of the learned classes.")] = None,
    template: Annotated[str | None, Query(description="The sentence around a label, with {} in it.")] = None,
    timeout_ms: Annotated[int | None, Query(ge=1, description="Milliseconds the answer may take.")] = None,
) -> Response:
    """The best labels of 1 to 64 images, from the version that is served at this moment.

    An image that cannot be decoded is an error in its own slot, the others are answered. Options may stand in the
    query, the form, or the JSON body.
    """
    query = {"top_k": top_k, "path": path, "labels": labels, "template": template, "timeout_ms": timeout_ms}
    asked = await _read(request, {name: value for name, value in query.items() if value is not None}, services)
    words, prompts = _labels(asked.options, services)
    served = services.live.get()
    request.state.model_version = served.version_id
    if words is None and not served.classes:
        raise NoClassesError(
            f"version {served.version_id} has learned no classes yet: teach it some, or ask with labels"
        )
    slots = await while_wanted(
        request, services, lambda: _scored(asked, served, words, prompts, services), timeout_ms=asked.options.timeout_ms
    )
    answer = ClassifyAnswer(
        model_version=served.version_id,
        path=asked.options.path if words is None else "text",
        results=results(asked.filenames, slots, asked.options.top_k),
    )
    return Response(answer.model_dump_json(), media_type="application/json")  # FastAPI would validate it once more


async def _scored(
    asked: Asked, served: Served, words: list[str] | None, prompts: list[str], services: Services
) -> list[Scored | Exception]:
    """What every image gets, in its slot."""
    slots = await services.decoder.decode(asked.images, served.preprocessing)
    good = [slot for slot in slots if isinstance(slot, Tensor)]
    services.metrics.images.labels("classified").inc(len(good))
    services.metrics.images.labels("refused").inc(len(slots) - len(good))
    if not good:
        scored = []
    elif words is None:
        scored = await services.engine.scores(served, good, asked.options.path)
    else:
        scored = await services.engine.label_scores(served, good, words, prompts)
    answers = iter(scored)
    return [next(answers) if isinstance(slot, Tensor) else slot for slot in slots]


async def _read(request: Request, query: Mapping[str, Any], services: Services) -> Asked:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limit = services.settings.max_images
    if kind == "multipart/form-data":
        form = await read_form(request, io.BytesIO, max_files=limit, max_file_bytes=services.settings.max_image_bytes)
        asked = _of_form(form, query)
    elif kind == "application/json":
        body = await request.body()
        asked = await off_loop(len(body), _of_json, body, query)
    else:
        raise HTTPException(415, "send images as multipart/form-data, or base64 in application/json")
    if not 1 <= len(asked.images) <= limit:
        raise InvalidRequestError(f"the request has {len(asked.images)} images; expected 1 to {limit}")
    return asked


def _of_form(form: Form, query: Mapping[str, Any]) -> Asked:
    wrong = {part.name for part in form.files} - {"images"}
    if wrong:
        raise InvalidRequestError(f"files belong in the field 'images', got {', '.join(map(repr, sorted(wrong)))}")
    values: dict[str, Any] = dict(query)
    for name in {name for name, _ in form.fields}:
        values[name] = form.values(name) if name == "labels" else form.value(name)
    images = [part.file.read() for part in form.files if part.file.seek(0) == 0]
    return Asked(images, [part.filename for part in form.files], _options(values))


def _of_json(body: bytes, query: Mapping[str, Any]) -> Asked:
    try:
        parsed = ClassifyBody.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    values = {**query, **parsed.model_dump(exclude={"images"}, exclude_unset=True)}
    return Asked([from_base64(text) for text in parsed.images], [None] * len(parsed.images), _options(values))


def _options(values: dict[str, Any]) -> Options:
    labels = values.get("labels")
    if isinstance(labels, list) and len(labels) == 1 and labels[0].lstrip().startswith("["):
        try:
            values["labels"] = json.loads(labels[0])
        except ValueError as error:
            raise InvalidRequestError(f"labels is not a JSON list: {error}") from error
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        raise invalid_body(error) from error


def _labels(options: Options, services: Services) -> tuple[list[str] | None, list[str]]:
    """The ad-hoc labels and their prompts; None where the version's classes are asked for."""
    if options.labels is None:
        if options.template is not None:
            raise InvalidRequestError(
                "template goes with labels; learned classes keep the sentence they were taught by"
            )
        return None, []
    words = [label.strip() for label in options.labels]
    if not 1 <= len(words) <= services.settings.max_labels:
        raise InvalidRequestError(f"{len(words)} labels; expected 1 to {services.settings.max_labels}")
    if not all(1 <= len(word) <= MAX_LABEL_LENGTH for word in words):
        raise InvalidRequestError(f"a label is empty or has more than {MAX_LABEL_LENGTH} characters")
    if len(set(words)) < len(words):
        raise InvalidRequestError("a label is given twice")
    if options.path == "visual":
        raise InvalidRequestError("labels have no visual prototypes; use path=text, or leave labels out")
    template = DEFAULT_TEMPLATE if options.template is None else options.template
    return words, [as_prompt(template, word) for word in words]
