from __future__ import annotations

import asyncio
import io
import os
import struct
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from PIL import Image

from app.errors import ImageTooLargeError, TooManyPixelsError
from app.serving import decode
from app.serving.decode import Decoder
from app.settings import Settings
from segp_cl.data.decoding import Plan, decode_image, pixels_of
from segp_cl.data.preprocessing import Preprocessing, Resample, to_pixels
from segp_cl.errors import ImageDecodeError
from segp_cl.runtime.fast_decoding import fast_pixels
from tests.waiting import wait_until

SQUARE = Preprocessing(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_every_slot_gets_its_pixels_or_its_own_error(png: Callable[[int], bytes]) -> None:
    decoder = Decoder(threads=2, max_image_bytes=1000, max_image_pixels=10_000)
    given = ImageDecodeError("not base64")
    slots = asyncio.run(decoder.decode([png(1), b"text", given, bytes(1001), png(2)], SQUARE))
    decoder.close()
    for slot in (slots[0], slots[4]):
        assert isinstance(slot, torch.Tensor)
        assert (slot.shape, slot.dtype) == ((3, 16, 16), torch.uint8)
    assert isinstance(slots[1], ImageDecodeError)
    assert slots[2] is given
    assert isinstance(slots[3], ImageTooLargeError)
    assert "1001 bytes; at most 1000" in str(slots[3])


@pytest.mark.parametrize("fast", [False, True])
def test_the_way_that_was_asked_for_is_taken(fast: bool) -> None:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((300, 400)).save(buffer, "JPEG")
    data = buffer.getvalue()
    exact, quick = to_pixels(decode_image(data), SQUARE), fast_pixels(data, SQUARE)
    assert not torch.equal(exact, quick)
    decoder = Decoder(threads=1, max_image_bytes=10**6, max_image_pixels=300 * 400, fast=fast)
    (pixels,) = asyncio.run(decoder.decode([data], SQUARE))
    decoder.close()
    assert isinstance(pixels, torch.Tensor)
    assert torch.equal(pixels, quick if fast else exact)


def test_the_fast_way_has_the_same_limits(png: Callable[[int], bytes]) -> None:
    decoder = Decoder(threads=1, max_image_bytes=1000, max_image_pixels=63, fast=True)
    slots = asyncio.run(decoder.decode([png(1), b"text", bytes(1001)], SQUARE))
    decoder.close()
    assert "at most 63" in str(slots[0])
    assert [type(slot) for slot in slots] == [ImageDecodeError, ImageDecodeError, ImageTooLargeError]


def flat(width: int, height: int, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_request_of_more_pixels_than_allowed_is_refused_before_anything_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "pixels_of", never)
    decoder = Decoder(threads=1, max_image_bytes=10**6, max_image_pixels=10**6, max_request_pixels=250_000)
    image = flat(400, 300, "PNG")
    with pytest.raises(TooManyPixelsError, match=r"^image 3 brings the request to 360000 pixels; at most 250000"):
        asyncio.run(decoder.decode([image, b"text", image, image, image], SQUARE))
    with pytest.raises(TooManyPixelsError, match=r"^input 7 brings the request to 360000"):
        asyncio.run(decoder.decode([image, image, image], SQUARE, names=["input 0", "input 2", "input 7"]))
    with pytest.raises(TooManyPixelsError, match=r"^image 0 brings the request to 999999"):
        asyncio.run(decoder.decode([flat(333, 3003, "PNG")], SQUARE))
    decoder.close()


def never(*args: object, **options: object) -> NoReturn:
    raise AssertionError


def test_64_photos_of_12_megapixels_pass_and_64_large_ones_of_other_formats_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "pixels_of", lambda plan, preprocessing, *, resample: torch.zeros(1))
    settings = Settings()
    decoder = Decoder(
        threads=2,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_request_pixels=settings.max_request_pixels,
    )
    for photo in (jpeg_header(4032, 3024), jpeg_header(8160, 6144)):
        slots = asyncio.run(decoder.decode([photo] * 64, SQUARE))
        assert all(isinstance(slot, torch.Tensor) for slot in slots)
    with pytest.raises(TooManyPixelsError):
        asyncio.run(decoder.decode([flat(6000, 6000, "PNG")] * 64, SQUARE))
    decoder.close()


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG that is cut off after its first scan's header, of a size of its own."""
    data = bytearray(flat(16, 16, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def test_large_images_do_not_hold_up_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, begun = threading.Event(), threading.Event()

    def slowly(plan: Plan, preprocessing: Preprocessing, *, resample: Resample) -> torch.Tensor:
        if not plan.is_usual:
            begun.set()
            assert opened.wait(30)
        return pixels_of(plan, preprocessing, resample=resample)

    monkeypatch.setattr(decode, "pixels_of", slowly)
    decoder = Decoder(threads=1, max_image_bytes=10**6, max_image_pixels=10**8)

    async def main() -> None:
        large = asyncio.create_task(decoder.decode([flat(2000, 2000, "PNG")] * 3, SQUARE))
        await asyncio.to_thread(begun.wait, 30)
        (small,) = await decoder.decode([flat(20, 20, "PNG")], SQUARE)
        assert isinstance(small, torch.Tensor)
        assert not large.done()
        opened.set()
        assert all(isinstance(slot, torch.Tensor) for slot in await large)

    asyncio.run(main())
    decoder.close()


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_large_images_are_decoded_behind_all_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    priorities: dict[bool, int] = {}

    def noted(plan: Plan, preprocessing: Preprocessing, *, resample: Resample) -> torch.Tensor:
        priorities[plan.is_usual] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return torch.zeros(1)

    monkeypatch.setattr(decode, "pixels_of", noted)
    decoder = Decoder(threads=1, max_image_bytes=10**6, max_image_pixels=10**8)
    asyncio.run(decoder.decode([flat(2000, 2000, "PNG"), flat(20, 20, "PNG")], SQUARE))
    decoder.close()
    assert priorities[False] >= priorities[True] + min(10, 19 - priorities[True])


def test_the_rest_of_a_request_that_was_given_up_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    decoded: list[Plan] = []

    def slowly(plan: Plan, preprocessing: Preprocessing, *, resample: Resample) -> torch.Tensor:
        decoded.append(plan)
        assert opened.wait(30)
        return torch.zeros(1)

    monkeypatch.setattr(decode, "pixels_of", slowly)
    decoder = Decoder(threads=1, max_image_bytes=10**6, max_image_pixels=10**8)

    async def main() -> None:
        task = asyncio.create_task(decoder.decode([flat(20, 20, "PNG"), flat(2000, 2000, "PNG")] * 5, SQUARE))
        await asyncio.to_thread(wait_until, lambda: len(decoded) == 2)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    opened.set()
    decoder.close()
    assert len(decoded) == 2
