"""The way of images to their answers, the same for every route that takes images: decode, ask, count."""

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
"""Pixels of images to an answer for each, or to why it has none."""


def take_served(services: Services, request: Request) -> Served:
    """The version that a whole request is answered with. Metrics and the log are told which it was.

    Raises:
        NotReadyError: none can be served at this moment.
    """
    served = services.live.get()
    request.state.model_version = served.version_id
    return served


def check_image_count(count: int, services: Services) -> None:
    """Refuse a request without images, and one with too many.

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
) -> list[A | Exception]:
    """An answer for every image, in its slot; an image that cannot be decoded or run is an exception in its slot.

    Args:
        services: the server's.
        served: the version to ask.
        images: encoded images; one that could not be read so far is an error already.
        ask: what is wanted of those that can be decoded.
        outcome: what images that can be decoded are counted as.
    """
    slots = await services.decoder.decode(images, served.preprocessing)
    pixels = [slot for slot in slots if isinstance(slot, Tensor)]
    services.metrics.images.labels(outcome).inc(len(pixels))
    services.metrics.images.labels("refused").inc(len(slots) - len(pixels))
    answers = iter(await ask(pixels) if pixels else [])
    return [next(answers) if isinstance(slot, Tensor) else slot for slot in slots]


def all_or_nothing(slots: Sequence[A | Exception], names: Sequence[str]) -> list[A]:
    """The answers, where one that is missing refuses the whole request.

    Args:
        slots: what `answer_images` gave.
        names: what the images are called in an error: `image 0`, `input 3`.

    Raises:
        Exception: that of the first slot without an answer, under its name.
    """
    answers: list[A] = []
    for name, slot in zip(names, slots, strict=True):
        if isinstance(slot, KeepsightError):
            raise type(slot)(f"{name}: {slot}") from slot
        if isinstance(slot, Exception):
            raise slot
        answers.append(slot)
    return answers
