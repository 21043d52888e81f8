"""The route for vectors of images and texts, in the format of OpenAI's API."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from app.deps import ClassifyCaller, ServicesDep
from app.errors import InvalidRequestError
from app.offload import off_loop
from app.openapi import problems
from app.problems import invalid_body
from app.schemas import Embedding, Embeddings, EmbeddingsBody
from app.services import Services
from app.serving.answer_images import Pixels, all_or_nothing, answer_images, take_served
from app.serving.answers import Vector, encoded
from app.serving.decode import from_base64
from app.serving.live_model import Served

router = APIRouter(prefix="/v1", tags=["embeddings"])
MAX_TEXT_LENGTH = 10_000
_DIGITS = 20  # characters per number in an answer
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
    """Return unit vectors in the joint space of images and texts, from the version that is served at this moment.

    An image is a base64 data URI; anything else is a text, and no URL is ever fetched. If an image cannot be decoded,
    the request is refused. Vectors of different `space` must not be compared: send the version of your stored vectors
    as `stored_version`, and `matches_stored` says whether they can be compared with these.
    """
    raw = await request.body()
    body = await off_loop(len(raw), _parsed, raw)
    served = take_served(services, request)
    inputs = _inputs(body, services, served)
    matches = None
    if body.stored_version is not None:
        matches = served.space == await services.pools.store.run(_space, body.stored_version, services)
    vectors = await services.admission.while_wanted(
        request, lambda: _vectors(inputs, served, services), timeout_ms=body.timeout_ms
    )

    def answer() -> bytes:
        return (
            Embeddings(
                data=[
                    Embedding(index=index, embedding=encoded(vector, body.encoding_format))
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


async def _vectors(inputs: list[str], served: Served, services: Services) -> list[Vector]:
    at_image = [index for index, item in enumerate(inputs) if item.startswith(_IMAGE)]
    at_text = [index for index, item in enumerate(inputs) if not item.startswith(_IMAGE)]
    encoded_images = [inputs[index] for index in at_image]
    images = await off_loop(sum(map(len, encoded_images)), lambda: [from_base64(each) for each in encoded_images])

    async def ask(pixels: Sequence[Pixels]) -> Sequence[Vector | Exception]:
        return await services.engine.image_embeddings(served, pixels)

    names = [f"input {index}" for index in range(len(inputs))]
    of_images = await answer_images(
        services, served, images, ask, outcome="embedded", all_named=[names[index] for index in at_image]
    )
    of_texts = await services.engine.text_embeddings(served, [inputs[index] for index in at_text])
    by_index = dict(zip(at_image + at_text, [*of_images, *of_texts], strict=True))
    return all_or_nothing([by_index[index] for index in range(len(inputs))], names)
