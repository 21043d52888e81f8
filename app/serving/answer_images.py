"""The steps from images to answers that all image routes share: decode, ask the model, count."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

from fastapi import Request
from torch import Tensor

from app.errors import InvalidRequestError
from app.services import Services
from app.serving.live_model import Served
from segp_cl.errors import KeepsightError

A = TypeVar("A")
Pixels = Tensor
"""An image as the model takes it: uint8 [3, size, size]."""
Ask = Callable[[Sequence[Pixels]], Awaitable[Sequence[A | Exception]]]
"""Maps the pixels of images to an answer or an error for each."""


async def take_served(services: Services, request: Request, version: str | None = None) -> Served:
    """Return the version that answers the whole request, and note it for the log: the served one, or `version`.

    Raises:
        NotReadyError: no version can be served at this moment.
        VersionNotFoundError: there is no version of that name.
        StoreError, GoldenAnswersError: it cannot be loaded.
    """
    served = await services.watcher.served()
    if version is not None:
        served = await services.aside.get(version)
    request.state.model_version = served.version_id
    return served


def check_image_count(count: int, services: Services) -> None:
    """Refuse a request with no images or too many.

    Raises:
        InvalidRequestError: the request has none or too many.
    """
    most = services.settings.max_images
    if not 1 <= count <= most:
        got = f"the request has {count} images" if count else "the request has no image"
        raise InvalidRequestError(f"{got}; expected 1 to {most}")


async def answer_images(
    services: Services,
    served: Served,
    images: Sequence[bytes | KeepsightError],
    ask: Ask[A],
    *,
    outcome: Literal["classified", "embedded"],
    all_named: Sequence[str] | None = None,
) -> list[A | Exception]:
    """Return an answer for every image, in order; an image that cannot be decoded or run has an exception in its slot.

    Args:
        services: the server's services.
        served: the version to ask.
        images: encoded images, or the error of one that failed to parse.
        ask: gets the answers for the images that can be decoded.
        outcome: the metric's label for images that can be decoded.
        all_named: the images' names, where all must be decoded: one that cannot be raises its error, and none is run.

    Raises:
        TooManyPixelsError: the images have more pixels together than one request may have; none is decoded.
        KeepsightError: with `all_named`, the error of the first image that cannot be decoded, with its name.
    """
    slots = await services.decoder.decode(images, served.preprocessing, names=all_named)
    pixels = [slot for slot in slots if isinstance(slot, Tensor)]
    services.metrics.images.labels("refused").inc(len(slots) - len(pixels))
    if all_named is not None:
        all_or_nothing(slots, all_named)
    services.metrics.images.labels(outcome).inc(len(pixels))
    answers = iter(await ask(pixels) if pixels else [])
    return [next(answers) if isinstance(slot, Tensor) else slot for slot in slots]


def all_or_nothing(slots: Sequence[A | Exception], names: Sequence[str]) -> list[A]:
    """Return all answers, or raise the error of the first that is missing.

    Args:
        slots: the result of `answer_images`.
        names: the images' names in errors: `image 0`, `input 3`.

    Raises:
        Exception: the error of the first slot without an answer, with its name.
    """
    answers: list[A] = []
    for name, slot in zip(names, slots, strict=True):
        if isinstance(slot, KeepsightError):
            raise type(slot)(f"{name}: {slot}") from slot
        if isinstance(slot, Exception):
            raise slot
        answers.append(slot)
    return answers
