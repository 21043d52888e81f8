from __future__ import annotations

import asyncio
from collections.abc import Callable

import torch

from app.errors import ImageTooLargeError
from app.serving.decode import Decoder
from segp_cl.errors import ImageDecodeError
from segp_cl.images import Preprocessing

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
