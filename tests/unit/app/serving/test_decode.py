from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from app.errors import ImageTooLargeError
from app.serving.decode import Decoder
from segp_cl.data.decoding import decode_image
from segp_cl.data.preprocessing import Preprocessing, to_pixels
from segp_cl.errors import ImageDecodeError
from segp_cl.runtime.fast_decoding import fast_pixels

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
