"""GIF: the canvas of its screen and its first frame."""

from __future__ import annotations

import io

from PIL import GifImagePlugin

from segp_cl.data.formats.header import Header, damaged
from segp_cl.errors import ImageDecodeError

MOST_BLOCKS = 1 << 16


def read_header(data: bytes) -> Header:
    """Read the sizes of the screen and of the first frame, which may be larger.

    Raises:
        ImageDecodeError: it is damaged, or has more blocks before its first frame than any real image.
    """

    def u16(at: int) -> int:
        return int.from_bytes(data[at : at + 2], "little")

    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    blocks = 0
    while at + 9 < len(data):
        if data[at] == 0x2C:
            left, top, width, height = (u16(at + offset) for offset in (1, 3, 5, 7))
            size = max(u16(6), left + width), max(u16(8), top + height)
            # a frame smaller than the screen is drawn on a canvas of its own
            return Header("GIF", size, data, _open, source_bytes=1, fixed_bytes=size[0] * size[1])
        if data[at] == 0x21:
            at += 2
            while at < len(data) and data[at]:
                at += 1 + data[at]
                blocks += 1
        at += 1
        blocks += 1
        if blocks > MOST_BLOCKS:
            raise ImageDecodeError(f"the GIF image has more than {MOST_BLOCKS} blocks before its first frame")
    raise damaged("GIF", "it has no frame")


def _open(data: bytes) -> GifImagePlugin.GifImageFile:
    return GifImagePlugin.GifImageFile(io.BytesIO(data))
