"""Images of a request: counted, decoded, asked about, and answered each in its own slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from starlette.requests import Request
from torch import Tensor

from app.errors import InferenceError, InvalidRequestError, NotReadyError
from app.serving.answer_images import all_or_nothing, answer_images, check_image_count, take_served
from app.serving.live_model import Served
from segp_cl.errors import ImageDecodeError, KeepsightError
from tests.unit.app.house import House

Png = Callable[[int], bytes]


@pytest.fixture
def served(house: House) -> Served:
    return house._load(house.first)


def test_a_request_is_answered_with_one_version_which_is_noted(house: House, served: Served) -> None:
    request = Request({"type": "http", "method": "POST", "headers": []})
    with pytest.raises(NotReadyError):
        asyncio.run(take_served(house.services, request))
    house.services.live.swap(served)
    assert asyncio.run(take_served(house.services, request)) is served
    assert request.state.model_version == house.first


@pytest.mark.parametrize("count", [0, 65])
def test_none_and_too_many_images_are_refused(house: House, count: int) -> None:
    check_image_count(1, house.services)
    check_image_count(64, house.services)
    with pytest.raises(InvalidRequestError, match=f"{count or 'no'} image.*expected 1 to 64"):
        check_image_count(count, house.services)


def test_every_image_is_answered_in_its_slot_and_counted(house: House, served: Served, png: Png) -> None:
    asked: list[int] = []

    async def ask(pixels: Sequence[Tensor]) -> list[int | Exception]:
        asked.append(len(pixels))
        # the pictures are of one colour, which is their number
        return [InferenceError("poisoned") if int(image[0, 0, 0]) == 3 else int(image[0, 0, 0]) for image in pixels]

    unread = ImageDecodeError("not base64")
    images: list[bytes | KeepsightError] = [png(1), b"text", png(2), unread, png(3), png(4)]
    slots = asyncio.run(answer_images(house.services, served, images, ask, outcome="classified"))
    assert asked == [4]
    assert [slot if isinstance(slot, int) else type(slot) for slot in slots] == [
        1,
        ImageDecodeError,
        2,
        ImageDecodeError,
        InferenceError,
        4,
    ]
    assert slots[3] is unread
    rendered = house.services.metrics.render().decode()
    assert 'keepsight_images_total{outcome="classified"} 4.0' in rendered
    assert 'keepsight_images_total{outcome="refused"} 2.0' in rendered


def test_a_model_is_not_asked_about_nothing(house: House, served: Served) -> None:
    async def ask(pixels: Sequence[Tensor]) -> list[int | Exception]:
        raise AssertionError

    slots = asyncio.run(answer_images(house.services, served, [b"text"], ask, outcome="embedded"))
    assert [type(slot) for slot in slots] == [ImageDecodeError]


def test_where_all_must_be_decoded_one_that_cannot_keeps_the_others_from_running(
    house: House, served: Served, png: Png
) -> None:
    async def ask(pixels: Sequence[Tensor]) -> list[int | Exception]:
        raise AssertionError

    names = ["input 0", "input 2"]
    with pytest.raises(ImageDecodeError, match=r"^input 2: expected an image"):
        asyncio.run(answer_images(house.services, served, [png(1), b"text"], ask, outcome="embedded", all_named=names))
    rendered = house.services.metrics.render().decode()
    assert 'keepsight_images_total{outcome="refused"} 1.0' in rendered
    assert 'outcome="embedded"' not in rendered


def test_one_slot_without_an_answer_refuses_all_under_its_name() -> None:
    assert all_or_nothing([1, 2], ["a", "b"]) == [1, 2]
    with pytest.raises(ImageDecodeError, match=r"^image 1: not an image$"):
        all_or_nothing([1, ImageDecodeError("not an image"), ImageDecodeError("neither")], ["image 0", "image 1", "c"])
    with pytest.raises(ZeroDivisionError):
        all_or_nothing([ZeroDivisionError()], ["a"])
