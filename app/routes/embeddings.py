"""Vectors of images and texts, in the shape that OpenAI's clients speak."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Literal

import torch
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError
from torch import Tensor

from app.deps import ClassifyCaller, ServicesDep
from app.errors import InvalidRequestError, invalid_body
from app.openapi import problems
from app.schemas import Embedding, Embeddings, EmbeddingsBody
from app.services import Services
from app.serving.decode import from_base64
from app.serving.live_model import Served
from app.waiting import off_loop, while_wanted

router = APIRouter(prefix="/v1", tags=["embeddings"])
MAX_TEXT_LENGTH = 10_000
_DIGITS = 20  # characters of one number of an answer
_IMAGE = "data:image/"
_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": EmbeddingsBody.model_json_schema(),
            "example": {"input": ["a photo of a cat.", "data:image/png;base64,iVBORw0KGgo…"]},
        }
    },
}
_SPACE = re.compile("[0-9a-f]{16}")


@router.post(
    "/embeddings",
    summary="Vectors of images and texts",
    response_model=Embeddings,
    openapi_extra={"requestBody": _BODY},
    responses=problems(400, 404, 409, 413, 422, 429, 503, 504),
)
async def embeddings(request: Request, services: ServicesDep, caller: ClassifyCaller) -> Response:
    """Unit vectors in the space that images and texts share, from the version that is served at this moment.

    An image is a data URI in base64; anything else is a text, and no address is ever fetched. An image that cannot be
    decoded refuses the request. Vectors of different `space` must not be compared: name the version that yours were
    stored with as `stored_version`, and `matches_stored` tells whether they can be compared with these.
    """
    raw = await request.body()
    body = await off_loop(len(raw), _parsed, raw)
    served = services.live.get()
    request.state.model_version = served.version_id
    inputs = _inputs(body, services, served)
    matches = None
    if body.stored_version is not None:
        matches = served.space == await asyncio.to_thread(_space, body.stored_version, services)
    vectors = await while_wanted(
        request, services, lambda: _vectors(inputs, served, services), timeout_ms=body.timeout_ms
    )

    def answer() -> bytes:
        return (
            Embeddings(
                data=[
                    Embedding(index=index, embedding=_encoded(vector, body.encoding_format))
                    for index, vector in enumerate(vectors)
                ],
                model=services.settings.model,
                model_version=served.version_id,
                space=served.space,
                matches_stored=matches,
            )
            .model_dump_json()
            .encode()
        )

    digits = sum(_DIGITS * len(vector) for vector in vectors)
    return Response(await off_loop(digits, answer), media_type="application/json")


def _parsed(body: bytes) -> EmbeddingsBody:
    try:
        return EmbeddingsBody.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error


def _inputs(body: EmbeddingsBody, services: Services, served: Served) -> list[str]:
    known = ("keepsight", services.settings.model, served.version_id)
    if body.model is not None and body.model not in known:
        raise InvalidRequestError(f"model is {body.model!r}; this server has {', '.join(map(repr, known))}")
    inputs = [body.input] if isinstance(body.input, str) else body.input
    images = sum(item.startswith(_IMAGE) for item in inputs)
    texts = len(inputs) - images
    if not inputs:
        raise InvalidRequestError("input is empty")
    if images > services.settings.max_images or texts > services.settings.max_labels:
        raise InvalidRequestError(
            f"input has {images} images and {texts} texts; at most {services.settings.max_images} images and "
            f"{services.settings.max_labels} texts are allowed"
        )
    for index, item in enumerate(inputs):
        if not item.startswith(_IMAGE) and not 1 <= len(item) <= MAX_TEXT_LENGTH:
            raise InvalidRequestError(
                f"input {index} has {len(item)} characters; a text has 1 to {MAX_TEXT_LENGTH}, and an image begins "
                f"with {_IMAGE!r}"
            )
    return inputs


def _space(stored: str, services: Services) -> str:
    return stored if _SPACE.fullmatch(stored) else services.space_of(stored)


async def _vectors(inputs: list[str], served: Served, services: Services) -> list[Tensor]:
    at_image = [index for index, item in enumerate(inputs) if item.startswith(_IMAGE)]
    at_text = [index for index, item in enumerate(inputs) if not item.startswith(_IMAGE)]
    text = [inputs[index] for index in at_image]
    data = await off_loop(sum(map(len, text)), lambda: [from_base64(each) for each in text])
    slots = await services.decoder.decode(data, served.preprocessing)
    good = [slot for slot in slots if isinstance(slot, Tensor)]
    if len(good) < len(slots):
        services.metrics.images.labels("refused").inc(len(slots) - len(good))
        index, error = next((i, s) for i, s in zip(at_image, slots, strict=True) if not isinstance(s, Tensor))
        raise type(error)(f"input {index}: {error}")
    services.metrics.images.labels("embedded").inc(len(good))
    images, texts = await asyncio.gather(
        services.engine.image_embeddings(served, good),
        services.engine.text_embeddings(served, [inputs[index] for index in at_text]),
    )
    vectors = dict(zip(at_image + at_text, images + texts, strict=True))
    for vector in vectors.values():
        if isinstance(vector, Exception):
            raise vector
    return [vector for _, vector in sorted(vectors.items()) if isinstance(vector, Tensor)]


def _encoded(vector: Tensor, encoding: Literal["float", "base64"]) -> list[float] | str:
    values = vector.to(torch.float32)
    return values.tolist() if encoding == "float" else base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()
