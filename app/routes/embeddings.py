"""The route for vectors of images and texts, in the format of OpenAI's API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.deps import ClassifyCaller, ServicesDep
from app.encoded_images import images_from_base64, kind_of
from app.errors import InvalidRequestError
from app.json_body import LongText, read_json
from app.media_types import check_not_compressed
from app.offload import in_thread, off_loop
from app.openapi import json_body, problems
from app.schemas import Embedding, Embeddings, EmbeddingsBody
from app.services import Services
from app.serving.answer_images import Pixels, all_or_nothing, answer_images, take_served
from app.serving.answers import Vector, encoded
from app.serving.live_model import Served

router = APIRouter(prefix="/v1", tags=["embeddings"])
MAX_TEXT_LENGTH = 10_000
_DIGITS = 20  # characters per number in an answer
_BODY = json_body(EmbeddingsBody, example={"input": ["a photo of a cat.", "a photo of a dog."]})
_SPACE = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Image:
    """An image of the input, still encoded."""

    encoded: str | LongText


@router.post(
    "/embeddings",
    summary="Vectors of images and texts",
    response_model=Embeddings,
    openapi_extra={"requestBody": _BODY},
    responses=problems(400, 404, 409, 413, 415, 422, 429, 503, 504),
)
async def embeddings(request: Request, services: ServicesDep, caller: ClassifyCaller) -> Response:
    """Return unit vectors in the joint space of images and texts, from the version that is served at this moment.

    An image is a data URI, or its base64; `kind` says what each input was taken for. An address or a file's name is
    refused, because nothing is fetched. If an image cannot be decoded, the request is refused.

    Vectors of different `space` must not be compared: send the version of your stored vectors as `stored_version`, and
    `matches_stored` says whether they can be compared with these.
    """
    settings = services.settings
    check_not_compressed(request)  # curl's own Content-Type is taken for JSON too
    body = await read_json(
        request, EmbeddingsBody, max_bytes=settings.max_json_bytes, max_marks=settings.max_json_marks
    )
    served = await take_served(services, request)
    inputs = await in_thread(_inputs, body, services, served)
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
                    Embedding(
                        index=index,
                        embedding=encoded(vector, body.encoding_format),
                        kind="text" if isinstance(inputs[index], str) else "image",
                    )
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


def _inputs(body: EmbeddingsBody, services: Services, served: Served) -> list[Image | str]:
    """Return every input as what it is: a text, or an image that is still encoded."""
    known = ("keepsight", services.settings.model, served.version_id)
    if body.model is not None and body.model not in known:
        raise InvalidRequestError(f"model is {body.model!r}; this server has {', '.join(map(repr, known))}")
    sent = body.input
    if not sent:
        raise InvalidRequestError("input is empty")
    most_images, most_texts = services.settings.max_images, services.settings.max_labels
    if len(sent) > most_images + most_texts:
        raise InvalidRequestError(f"input has {len(sent)} entries; at most {most_images + most_texts} are allowed")
    inputs = [_input(index, item) for index, item in enumerate(sent)]
    texts = sum(isinstance(item, str) for item in inputs)
    if len(inputs) - texts > most_images or texts > most_texts:
        raise InvalidRequestError(
            f"input has {len(inputs) - texts} images and {texts} texts; at most {most_images} images and "
            f"{most_texts} texts are allowed"
        )
    return inputs


def _input(index: int, item: str | LongText) -> Image | str:
    try:
        if kind_of(item) == "image":
            return Image(item)
        text = item if isinstance(item, str) else item.text(MAX_TEXT_LENGTH)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"input {index}: {error}") from error
    if not 1 <= len(text) <= MAX_TEXT_LENGTH:
        raise InvalidRequestError(f"input {index} has {len(text)} characters; a text has 1 to {MAX_TEXT_LENGTH}")
    return text


def _space(stored: str, services: Services) -> str:
    return stored if _SPACE.fullmatch(stored) else services.space_of(stored)


async def _vectors(inputs: list[Image | str], served: Served, services: Services) -> list[Vector]:
    encoded_images = {index: item.encoded for index, item in enumerate(inputs) if isinstance(item, Image)}
    texts = {index: item for index, item in enumerate(inputs) if isinstance(item, str)}
    images = await images_from_base64([*encoded_images.values()], max_bytes=services.settings.max_image_bytes)

    async def ask(pixels: Sequence[Pixels]) -> Sequence[Vector | Exception]:
        return await services.engine.image_embeddings(served, pixels)

    names = [f"input {index}" for index in range(len(inputs))]
    of_images = await answer_images(
        services, served, images, ask, outcome="embedded", all_named=[names[index] for index in encoded_images]
    )
    of_texts = await services.engine.text_embeddings(served, [*texts.values()])
    by_index = dict(zip([*encoded_images, *texts], [*of_images, *of_texts], strict=True))
    return all_or_nothing([by_index[index] for index in range(len(inputs))], names)
